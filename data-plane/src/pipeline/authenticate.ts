import { AppError } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import type { AccessTokens } from './access-token.ts';
import { identify, isFor } from './credential.ts';
import type { Authenticated, Received } from './exchange.ts';

/**
 * Finds the principal behind the API key or access token. None, an unknown, expired or revoked one, one without the
 * scope `mcp`, from another network or for another endpoint, a disabled or expired principal: all get the same answer.
 * @throws AppError UNAUTHENTICATED
 */
export function authenticate(received: Received, runtime: Runtime, tokens: AccessTokens, nowMs: number): Authenticated {
  const found = identify(received.request, runtime, tokens, nowMs);
  if (found === undefined || !isFor(found.credential, received.slug, runtime)) throw new AppError('UNAUTHENTICATED');
  const { exchange } = received;
  exchange.principal = found.principal;
  exchange.credential = found.credential;
  return { received, ...found };
}
