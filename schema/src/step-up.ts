import { z } from 'zod';

/** How a person must have logged in to use an endpoint: answered by a challenge of RFC 9470 where he has not. */
export const stepUpSchema = z.strictObject({
  serverId: z.string(),
  /** The login must be of one of these authentication contexts; none: of any. */
  acrValues: z.array(z.string()),
  /** How long ago the login may be, in seconds; null for any time. */
  maxAgeSeconds: z.number().int().positive().nullable(),
});
export type StepUp = z.infer<typeof stepUpSchema>;
export type StepUpNeeds = Omit<StepUp, 'serverId'>;

/** What a token or browser session says of the login behind it; undefined where it says nothing. */
export interface LoginFacts {
  readonly acr?: string | undefined;
  /** Seconds since the epoch. */
  readonly authenticatedAt?: number | undefined;
}

/** Whether a login is as it must be. What is not known of it is not enough. */
export function isSteppedUp({ acrValues, maxAgeSeconds }: StepUpNeeds, login: LoginFacts, nowMs: number): boolean {
  const { acr, authenticatedAt } = login;
  if (acrValues.length > 0 && (acr === undefined || !acrValues.includes(acr))) return false;
  if (maxAgeSeconds === null) return true;
  return authenticatedAt !== undefined && nowMs / 1000 - authenticatedAt <= maxAgeSeconds;
}
