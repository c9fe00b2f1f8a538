import type { AppError } from '@sallyport/schema';
import type { UpstreamResponse } from './connections.ts';
import type { Refusal } from './credentials.ts';

/** What an answer has against who asks; undefined where nothing. */
export function refusalOf(response: UpstreamResponse): Refusal | undefined {
  const { status } = response;
  if (status !== 401 && status !== 403) return undefined;
  return { status, challenge: response.header('www-authenticate') ?? null };
}

/** Whether the same request would fail again: a decision or a credential says no, and not the moment. */
export function isLasting({ code, entry }: AppError): boolean {
  if (code === 'CREDENTIAL_REFUSED') return true;
  return entry.owner !== 'upstream' && code !== 'CREDENTIAL_UNAVAILABLE';
}
