import {
  type AppError,
  oauthScopes,
  type OAuthDocument,
  type OAuthScope,
  resourceMetadataUrl,
  type StepUpNeeds,
  wholeScope,
} from '@sallyport/schema';
import type { Exchange } from './exchange.ts';

/**
 * The `WWW-Authenticate` of a refusal (RFC 6750 §3, RFC 9728 §5.1), or null where it has none. Made of the path that was
 * asked for and nothing that is known of it, so that absent and forbidden endpoints answer alike.
 */
export function challengeOf(exchange: Exchange, error: AppError): string | null {
  const oauth = exchange.runtime?.oauth?.document;
  if (error.code === 'UNAUTHENTICATED') {
    const presented = exchange.request.headers.has('authorization') ? ['error="invalid_token"'] : [];
    return challenge([...presented, ...located(oauth, exchange.slug, [wholeScope])]);
  }
  if (error.code === 'INSUFFICIENT_AUTHENTICATION') {
    const { acrValues, maxAgeSeconds } = (error.data?.['stepUp'] ?? {
      acrValues: [],
      maxAgeSeconds: null,
    }) as StepUpNeeds;
    // RFC 9470 §3.
    const needs = [
      ...(acrValues.length === 0 ? [] : [`acr_values="${acrValues.join(' ')}"`]),
      ...(maxAgeSeconds === null ? [] : [`max_age="${maxAgeSeconds}"`]),
    ];
    const what = ['error="insufficient_user_authentication"', ...needs];
    return challenge([...what, ...located(oauth, exchange.slug, [wholeScope])]);
  }
  if (error.code !== 'INSUFFICIENT_SCOPE') return null;
  const { credential } = exchange;
  const held = credential?.kind === 'accessToken' ? credential.token.scopes : [];
  const missing = (error.data?.['missingScopes'] ?? []) as readonly OAuthScope[];
  // What the client holds is named too: one that asks for the challenged scopes alone would lose the others.
  const needed = oauthScopes.filter((scope) => held.includes(scope) || missing.includes(scope));
  return challenge(['error="insufficient_scope"', ...located(oauth, exchange.slug, needed)]);
}

function challenge(parameters: readonly string[]): string {
  return parameters.length === 0 ? 'Bearer' : `Bearer ${parameters.join(', ')}`;
}

function located(oauth: OAuthDocument | undefined, slug: string | null, scopes: readonly OAuthScope[]): string[] {
  if (oauth === undefined || slug === null) return [];
  const url = resourceMetadataUrl(oauth.nodesUrl, slug);
  return [`resource_metadata="${url}"`, `scope="${scopes.join(' ')}"`];
}
