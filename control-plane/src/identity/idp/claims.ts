import { AppError } from '@sallyport/schema';
import { z } from 'zod';
import type { GroupRule, IdentityProviderRow } from './identity-provider.tables.ts';

export type Claims = Readonly<Record<string, unknown>>;

/** Values of a groups claim that are looked at; a token with more is one whose groups are not all in it. */
const groupValuesMax = 2_000;
const subjectLengthMax = 255;
const nameLengthMax = 128;
const emailLengthMax = 254;

/** What an ID token says of the groups of a user. */
export type GroupClaim = { readonly kind: 'values'; readonly values: readonly string[] } | { readonly kind: 'overage' };

const overageSchema = z.looseObject({ _claim_names: z.record(z.string(), z.unknown()).optional() });

/**
 * The groups in a token. Entra leaves them out above 200 and points to where they are (`_claim_names`, `hasgroups`);
 * the place it names is never used. A claim that is absent means no groups.
 */
export function groupClaim(claims: Claims, name: string): GroupClaim {
  const overage = overageSchema.safeParse(claims);
  const isNamedElsewhere = overage.success && Object.hasOwn(overage.data._claim_names ?? {}, name);
  // It is said of `groups` alone: application roles are all in the token.
  const hasGroups = name === 'groups' && (claims['hasgroups'] === true || claims['hasgroups'] === 'true');
  if (isNamedElsewhere || hasGroups) return { kind: 'overage' };
  const value = claims[name];
  const values = typeof value === 'string' ? [value] : Array.isArray(value) ? value : [];
  if (values.length > groupValuesMax) return { kind: 'overage' };
  return { kind: 'values', values: values.filter((one): one is string => typeof one === 'string') };
}

/** Ids of the groups that the rules give for these values; compared as strings, to the letter. */
export function groupsByRules(rules: readonly GroupRule[], values: readonly string[]): readonly string[] {
  const held = new Set(values);
  return [...new Set(rules.filter(({ value }) => held.has(value)).map(({ groupId }) => groupId))].sort();
}

function refused(internal: string): AppError {
  return new AppError('UNAUTHENTICATED', { internal });
}

/** The subject, checked: who it is at the provider for good. Throws where a claim is missing or not as required. */
export function subjectOf(
  claims: Claims,
  provider: Pick<IdentityProviderRow, 'subjectClaim' | 'requiredClaims' | 'acrValues'>,
): string {
  for (const [name, value] of Object.entries(provider.requiredClaims)) {
    if (claims[name] !== value) throw refused(`the claim ${name} is not as required`);
  }
  const { acr } = claims;
  if (provider.acrValues.length > 0 && !(typeof acr === 'string' && provider.acrValues.includes(acr))) {
    throw refused('the login is not of a required authentication context (acr)');
  }
  const subject = claims[provider.subjectClaim];
  if (typeof subject !== 'string' || subject === '' || subject.length > subjectLengthMax) {
    throw refused(`the claim ${provider.subjectClaim} identifies nobody`);
  }
  return subject;
}

/** When the user proved who he is, in seconds since the epoch and never ahead of here; undefined where it is not said. */
export function authenticatedAtOf({ auth_time: told }: Claims, nowMs: number): number | undefined {
  if (typeof told !== 'number' || !Number.isFinite(told) || told < 0) return undefined;
  return Math.floor(Math.min(told, nowMs / 1000));
}

function textOf(value: unknown, lengthMax: number): string | undefined {
  if (typeof value !== 'string') return undefined;
  const text = value.replaceAll('\u0000', '').toWellFormed().trim();
  return text === '' ? undefined : text.slice(0, lengthMax);
}

/** What people call the user, and where to write to; neither identifies anybody. */
export function profileOf(claims: Claims): { readonly name: string; readonly email: string | null } {
  const email = claims['email_verified'] === false ? undefined : textOf(claims['email'], emailLengthMax);
  const name = textOf(claims['name'], nameLengthMax) ?? textOf(claims['preferred_username'], nameLengthMax) ?? email;
  return { name: name?.slice(0, nameLengthMax) ?? 'Unnamed user', email: email ?? null };
}
