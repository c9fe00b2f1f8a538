import { hash } from 'node:crypto';
import { AppError } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import { mayCall } from './decisions.ts';
import type { Authenticated, Received } from './exchange.ts';

const bearerForm = /^bearer +(sp_[A-Za-z0-9_-]{16,128})$/i;

/**
 * Finds the principal behind the API key. No key, an unknown, expired or revoked one, one without the scope `mcp`, a
 * disabled or expired principal: all get the same answer, after the same work.
 * @throws AppError UNAUTHENTICATED
 */
export function authenticate(received: Received, runtime: Runtime, nowMs: number): Authenticated {
  const key = bearerForm.exec(received.request.headers.get('authorization') ?? '')?.[1] ?? '';
  const keyHash = hash('sha256', key);
  const entry = runtime.apiKeyByHash.get(keyHash);
  if (entry === undefined || !mayCall(entry, nowMs)) throw new AppError('UNAUTHENTICATED');
  const { exchange } = received;
  exchange.principal = entry.principal;
  exchange.keyId = entry.key.id;
  return { received, principal: entry.principal, keyId: entry.key.id, keyHash };
}
