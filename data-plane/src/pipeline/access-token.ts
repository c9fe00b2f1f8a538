import { hash, verify, type KeyObject } from 'node:crypto';
import {
  type AccessTokenClaims,
  accessTokenAlgorithm,
  accessTokenClaimsSchema,
  accessTokenHeaderSchema,
  type LoginFacts,
  oauthScopes,
  type OAuthScope,
  tokenClockSkewMs,
} from '@sallyport/schema';
import type { OAuthRuntime, Runtime } from '../runtime/runtime.ts';

/** Longer ones are refused unread, in characters. */
export const accessTokenLengthMax = 8 * 1024;
/** Verified tokens remembered on a node. */
export const verifiedTokensMax = 20_000;
/** For how long at most, in milliseconds; never beyond the token's own life. */
const rememberedMs = 60_000;
const signatureBytes = 64;

/** What a token said, once its signature was found right. */
export interface VerifiedToken {
  readonly principalId: string;
  /** The resource it is for. */
  readonly audience: string;
  readonly scopes: readonly OAuthScope[];
  readonly clientId: string;
  /** `jti` */
  readonly id: string;
  readonly epoch: number;
  readonly family: string;
  readonly login: LoginFacts;
  /** Milliseconds since the epoch. */
  readonly expiresAt: number;
  readonly issuer: string;
  readonly key: KeyObject;
}

interface Remembered {
  readonly token: VerifiedToken;
  readonly untilMs: number;
}

/**
 * Verifies access tokens (RFC 9068) by the keys that were pushed, without asking anybody: there is no fetch that an
 * unknown key id could cause. What was verified is remembered by its digest for a minute at most, and forgotten when
 * keys or issuer change. Checks form, algorithm, key, signature, issuer and time; not whom it is for, nor whether
 * principal or family may act still: that is asked on each request.
 */
export class AccessTokens {
  readonly #remembered = new Map<string, Remembered>();
  #oauth: OAuthRuntime | undefined;

  /** Tokens remembered now. */
  get size(): number {
    return this.#remembered.size;
  }

  /** @returns undefined where the text is no token that holds at `nowMs`, the control plane's time */
  verify(text: string, runtime: Runtime, nowMs: number): VerifiedToken | undefined {
    const { oauth } = runtime;
    if (oauth === undefined || text.length > accessTokenLengthMax) return undefined;
    if (oauth !== this.#oauth) {
      this.#remembered.clear();
      this.#oauth = oauth;
    }
    const digest = hash('sha256', text);
    const known = this.#remembered.get(digest);
    if (known !== undefined) {
      if (nowMs < known.untilMs) return known.token;
      this.#remembered.delete(digest);
    }
    const token = verifyAccessToken(text, oauth, runtime, nowMs);
    if (token !== undefined) this.#remember(digest, token, nowMs);
    return token;
  }

  #remember(digest: string, token: VerifiedToken, nowMs: number): void {
    // The oldest goes: which it is matters little, since it is verified again in a fifth of a millisecond.
    for (const oldest of this.#remembered.keys()) {
      if (this.#remembered.size < verifiedTokensMax) break;
      this.#remembered.delete(oldest);
    }
    this.#remembered.set(digest, { token, untilMs: Math.min(token.expiresAt, nowMs + rememberedMs) });
  }
}

/**
 * The order matters: the signature costs forty times the rest, so it is looked at last, and a stranger who knows no
 * principal's id cannot make a node look at one. The key comes from the configuration alone, by the id in the header; a
 * `jwk`, `jku` or `x5u` there is nothing.
 */
function verifyAccessToken(
  text: string,
  oauth: OAuthRuntime,
  runtime: Pick<Runtime, 'principalById'>,
  nowMs: number,
): VerifiedToken | undefined {
  const headerEnd = text.indexOf('.');
  const claimsEnd = text.indexOf('.', headerEnd + 1);
  if (headerEnd < 0 || claimsEnd < 0 || text.indexOf('.', claimsEnd + 1) >= 0) return undefined;
  const header = accessTokenHeaderSchema.safeParse(jsonOf(text.slice(0, headerEnd)));
  // Whoever does not understand `crit` must refuse (RFC 7515 §4.1.11).
  if (!header.success || 'crit' in header.data) return undefined;
  const key = oauth.keys.get(header.data.kid);
  if (key === undefined) return undefined;
  const signature = Buffer.from(text.slice(claimsEnd + 1), 'base64url');
  if (signature.length !== signatureBytes) return undefined;
  const parsed = accessTokenClaimsSchema.safeParse(jsonOf(text.slice(headerEnd + 1, claimsEnd)));
  if (!parsed.success || !holds(parsed.data, oauth, nowMs) || !runtime.principalById.has(parsed.data.sub)) {
    return undefined;
  }
  const signed = Buffer.from(text.slice(0, claimsEnd), 'latin1');
  if (!verify(digestOf[accessTokenAlgorithm], signed, { key, dsaEncoding: 'ieee-p1363' }, signature)) return undefined;
  const { iss, aud, sub, client_id: clientId, scope, exp, jti, epoch, family } = parsed.data;
  const { acr, auth_time: authenticatedAt } = parsed.data;
  const held = scope.split(' ');
  return {
    principalId: sub,
    audience: aud,
    scopes: oauthScopes.filter((known) => held.includes(known)),
    clientId,
    id: jti,
    epoch,
    family,
    login: { acr, authenticatedAt },
    expiresAt: exp * 1000,
    issuer: iss,
    key,
  };
}

/** Whether issuer and times are right. An end is exact; a beginning may lie ahead by what clocks may differ. */
function holds({ iss, iat, exp, nbf }: AccessTokenClaims, oauth: OAuthRuntime, nowMs: number): boolean {
  const latestS = (nowMs + tokenClockSkewMs) / 1000;
  const hasBegun = nbf === undefined || (typeof nbf === 'number' && nbf <= latestS);
  return iss === oauth.document.issuer && nowMs < exp * 1000 && iat <= latestS && hasBegun;
}

const digestOf = { [accessTokenAlgorithm]: 'sha256' } as const;

function jsonOf(part: string): unknown {
  try {
    return JSON.parse(Buffer.from(part, 'base64url').toString('utf8'));
  } catch {
    return undefined;
  }
}
