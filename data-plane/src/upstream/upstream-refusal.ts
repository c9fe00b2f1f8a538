import { AppError, toAppError } from '@sallyport/schema';
import type { UpstreamResponse } from './connections.ts';
import type { Refusal } from './credentials.ts';

/** The cause of an UPSTREAM_REFUSED, where the status said so. */
export class UpstreamRefusal extends Error implements Refusal {
  readonly status: Refusal['status'];
  readonly challenge: string | null;

  constructor({ status, challenge }: Refusal) {
    super(`the upstream answered ${status}`);
    this.status = status;
    this.challenge = challenge;
  }
}

/** What an answer has against who asks; undefined where nothing. */
export function refusalOf(response: UpstreamResponse): UpstreamRefusal | undefined {
  const { status } = response;
  if (status !== 401 && status !== 403) return undefined;
  return new UpstreamRefusal({ status, challenge: response.header('www-authenticate') ?? null });
}

/**
 * A failure after the upstream had taken a request of the exchange: where it refuses the credential of a later one, the
 * exchange must not be made again with another, or what it has done already would be done twice.
 */
export function withoutRetry(thrown: unknown): AppError {
  const error = toAppError(thrown);
  if (!(error.cause instanceof UpstreamRefusal)) return error;
  return new AppError('CREDENTIAL_REFUSED', { internal: `${error.cause.message} in the middle of an exchange` });
}
