import { AppError } from '@sallyport/schema';
import * as oauth from 'openid-client';

/**
 * What came of a request for tokens. `unknown`: it was sent, and nothing says whether it was acted on; it must not be
 * sent again.
 */
export type TokenOutcome =
  | { readonly kind: 'tokens'; readonly tokens: Tokens }
  /** `error`: a word of RFC 6749 §5.2 and its like, `other` for what is none. */
  | { readonly kind: 'refused'; readonly error: string }
  | { readonly kind: 'notSent' | 'unknown'; readonly reason: string };

export interface Tokens {
  readonly accessToken: string;
  readonly refreshToken: string | null;
  /** Claims of it are verified as far as the library does that for the grant. */
  readonly idToken: string | null;
  /** In seconds from now; null where the server does not say. */
  readonly expiresIn: number | null;
  readonly scopes: readonly string[] | null;
  /** RFC 8693 §2.2.1; null where the server does not say. */
  readonly issuedTokenType: string | null;
}

/** Token types and grants of RFC 8693 and of the identity assertion grant (draft-ietf-oauth-identity-assertion-authz-grant). */
export const tokenTypes = {
  accessToken: 'urn:ietf:params:oauth:token-type:access_token',
  idToken: 'urn:ietf:params:oauth:token-type:id_token',
  jwt: 'urn:ietf:params:oauth:token-type:jwt',
  identityAssertion: 'urn:ietf:params:oauth:token-type:id-jag',
} as const;
export const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange';
export const jwtBearerGrant = 'urn:ietf:params:oauth:grant-type:jwt-bearer';

/**
 * Asks for tokens; never rejects, since what came of it decides whether it may be tried again.
 * @param configure makes a configuration for this request alone: its `fetch` is watched
 */
export async function outcomeOf(
  configure: () => Promise<oauth.Configuration>,
  ask: (configuration: oauth.Configuration) => Promise<oauth.TokenEndpointResponse>,
): Promise<TokenOutcome> {
  let configuration: oauth.Configuration;
  try {
    configuration = await configure();
  } catch (error) {
    return { kind: 'notSent', reason: String(error) };
  }
  const sent = { status: 0, isSent: false };
  const guarded = configuration[oauth.customFetch];
  configuration[oauth.customFetch] = async (url, options) => {
    // What follows is about keys that verify the answer, and says nothing of what was spent for it.
    const isFirst = !sent.isSent;
    sent.isSent = true;
    const response = await (guarded ?? fetch)(url, options as never);
    if (isFirst) sent.status = response.status;
    return response;
  };
  try {
    return { kind: 'tokens', tokens: tokensOf(await ask(configuration)) };
  } catch (error) {
    return failureOf(error, sent);
  }
}

export function tokensOf(answer: oauth.TokenEndpointResponse): Tokens {
  const { access_token: accessToken, refresh_token: refreshToken, id_token: idToken, scope } = answer;
  const { expires_in: expiresIn, issued_token_type: issuedTokenType } = answer;
  return {
    accessToken,
    refreshToken: refreshToken ?? null,
    idToken: idToken ?? null,
    expiresIn: expiresIn ?? null,
    scopes: scope === undefined ? null : scopesOf(scope),
    issuedTokenType: typeof issuedTokenType === 'string' ? issuedTokenType : null,
  };
}

/** The parameter `scope` of a request (RFC 6749 §3.3), absent where nothing is asked for by name. */
export function scopeParameter(scopes: readonly string[]): { readonly scope?: string } {
  return scopes.length === 0 ? {} : { scope: scopes.join(' ') };
}

/** Scopes as they are written in requests, answers and challenges. */
export function scopesOf(text: string): readonly string[] {
  return text.split(' ').filter((one) => one !== '');
}

/** As many are kept of what somebody else names, and so long each. */
export const keptScopesMax = 256;
const scopeLengthMax = 256;

/** What is kept of scopes, also of those that an authorization server names: each once, the first of them. */
export function keptScopes(...lists: readonly (readonly string[])[]): string[] {
  const kept = new Set<string>();
  for (const scope of lists.flat()) {
    if (kept.size >= keptScopesMax) break;
    if (scope.length <= scopeLengthMax) kept.add(scope);
  }
  return [...kept];
}

/** RFC 6749 §5.2: the client is not known, or did not prove itself. */
export const unknownClient = 'invalid_client';

export function isUnknownClient(error: unknown): boolean {
  // With the header that a 401 has to have, the library shows the challenge alone.
  if (error instanceof oauth.WWWAuthenticateChallengeError) return error.status === 401;
  return error instanceof oauth.ResponseBodyError && error.error === unknownClient;
}

/**
 * Errors of token endpoints that are registered (IANA, OAuth Extensions Error), or known to be said by some. What else stands
 * there is not on record: it may repeat what was sent, or be another one each time.
 */
const knownErrors: ReadonlySet<string> = new Set([
  'access_denied',
  'account_selection_required',
  'authorization_pending',
  'consent_required',
  'expired_token',
  'insufficient_user_authentication',
  'interaction_required',
  'invalid_authorization_details',
  'invalid_client',
  'invalid_dpop_proof',
  'invalid_grant',
  'invalid_request',
  'invalid_scope',
  'invalid_target',
  'login_required',
  'mfa_required',
  'server_error',
  'slow_down',
  'temporarily_unavailable',
  'unauthorized_client',
  'unmet_authentication_requirements',
  'unsupported_grant_type',
  'unsupported_token_type',
  'use_dpop_nonce',
]);

function wordOf({ error }: oauth.ResponseBodyError): string {
  return knownErrors.has(error) ? error : 'other';
}

/** Errors by which an authorization server says that it did nothing with the token itself. */
const clientProblems: ReadonlySet<string> = new Set(['unauthorized_client', 'temporarily_unavailable']);

function failureOf(error: unknown, sent: { readonly status: number; readonly isSent: boolean }): TokenOutcome {
  // It did what it was asked for, whatever became of its answer.
  if (sent.status >= 200 && sent.status <= 299) return { kind: 'unknown', reason: `status ${sent.status}` };
  if (isUnknownClient(error)) return { kind: 'notSent', reason: unknownClient };
  if (error instanceof oauth.ResponseBodyError) {
    const word = wordOf(error);
    if (clientProblems.has(word) || sent.status === 429) return { kind: 'notSent', reason: word };
    return { kind: 'refused', error: word };
  }
  // No connection came about, or the server said that it did not begin. A proxy says 503 also of one that had begun.
  if (!sent.isSent || (sent.status === 0 && isUnreachable(error)) || sent.status === 429) {
    return { kind: 'notSent', reason: `status ${sent.status}` };
  }
  return { kind: 'unknown', reason: `status ${sent.status}` };
}

/** The dialler's own error: nothing was written. */
function isUnreachable(thrown: unknown): boolean {
  for (let at = thrown, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if (at instanceof AppError) return at.code === 'UPSTREAM_UNREACHABLE';
  }
  return false;
}
