import { AppError } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import { mayCall } from './decisions.ts';
import type { Authenticated, Received } from './exchange.ts';
import { presentedKeyHash } from './presented-key.ts';

/**
 * Finds the principal behind the API key. No key, an unknown, expired or revoked one, one without the scope `mcp`, a
 * disabled or expired principal: all get the same answer, after the same work.
 * @throws AppError UNAUTHENTICATED
 */
export function authenticate(received: Received, runtime: Runtime, nowMs: number): Authenticated {
  const keyHash = presentedKeyHash(received.request.headers);
  const entry = runtime.apiKeyByHash.get(keyHash);
  if (entry === undefined || !mayCall(entry, nowMs)) throw new AppError('UNAUTHENTICATED');
  const { exchange } = received;
  exchange.principal = entry.principal;
  exchange.keyId = entry.key.id;
  return { received, principal: entry.principal, keyId: entry.key.id, keyHash };
}
