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
