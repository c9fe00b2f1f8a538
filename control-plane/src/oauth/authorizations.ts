import { type LoginFacts, oauthScopes } from '@sallyport/schema';
import type { KoaContextWithOIDC, Provider } from 'oidc-provider';
import { accountClientId } from './account.ts';
import type { ConsentRequest, ConsentService } from './consent.service.ts';
import type { ObjectStore } from './object-store.service.ts';

const loginMark = 'login:';
const timeMark = 'login-time:';
const supportedScopes: ReadonlySet<string> = new Set(['offline_access', ...oauthScopes]);

/**
 * Where a browser session remembers which login at an identity provider began it, and when the user proved there who he
 * is: among its authentication methods.
 * @param authenticatedAt seconds since the epoch; undefined where the provider does not say
 */
export function amrOf(loginId: string | undefined, authenticatedAt: number | undefined): string[] {
  if (loginId === undefined) return [];
  return [`${loginMark}${loginId}`, ...(authenticatedAt === undefined ? [] : [`${timeMark}${authenticatedAt}`])];
}

export function loginOf(amr: readonly string[] | undefined): string | undefined {
  return amr?.find((method) => method.startsWith(loginMark))?.slice(loginMark.length);
}

/**
 * What a browser session, code or refresh token says of the login behind it. At a provider that has a session of its own
 * the user may have logged in long before he came here, so that the time is the provider's to tell.
 */
export function loginFactsOf(
  of: { readonly acr?: string | undefined; readonly amr?: readonly string[] | undefined } | undefined,
  cameAt: number | undefined,
): LoginFacts {
  if (loginOf(of?.amr) === undefined) return { acr: of?.acr, authenticatedAt: cameAt };
  const told = of?.amr?.find((method) => method.startsWith(timeMark))?.slice(timeMark.length);
  return { acr: of?.acr, authenticatedAt: told === undefined ? undefined : Number(told) };
}

/** What an authorization request asks for; undefined where it is not complete. */
export function requestOf(
  principalId: string | undefined,
  parameters: Readonly<Record<string, unknown>>,
): ConsentRequest | undefined {
  const { client_id: clientId, redirect_uri: redirectUri, resource, scope } = parameters;
  if (typeof clientId !== 'string' || typeof redirectUri !== 'string' || principalId === undefined) return undefined;
  if (typeof resource !== 'string' || typeof scope !== 'string') return undefined;
  const scopes = scope.split(' ').filter((one) => supportedScopes.has(one));
  return { principalId, clientId, redirectUri, resource, scopes };
}

/**
 * Makes the library's grants. Each authorization has one of its own, the family of its tokens, so that the misuse of
 * one refresh token does not end what the same client holds on another machine.
 */
export class Authorizations {
  private readonly store: ObjectStore;
  private readonly consents: ConsentService;

  constructor(store: ObjectStore, consents: ConsentService) {
    this.store = store;
    this.consents = consents;
  }

  /**
   * The grant of this interaction's consent, or one made from a consent that covers the request. Remembered is only
   * what goes to a host that somebody owns: on loopback any program may take the place of the client.
   */
  async grantFor({ oidc }: KoaContextWithOIDC): Promise<string | undefined> {
    const given = oidc.result?.consent?.grantId;
    if (given !== undefined) return given;
    if (oidc.prompts.has('consent') || (oidc.prompts.has('login') && oidc.result?.login === undefined))
      return undefined;
    const accountId = oidc.session?.accountId;
    if (oidc.client?.clientId === accountClientId && accountId !== undefined) {
      return this.ownPage(oidc.provider, accountId);
    }
    const request = requestOf(accountId, oidc.params ?? {});
    if (request === undefined) return undefined;
    if (!(await this.consents.covers(request))) return undefined;
    return this.grant(oidc.provider, request, loginOf(oidc.session?.amr));
  }

  /** A grant of exactly what was asked. */
  async grant(provider: Provider, request: ConsentRequest, loginId: string | undefined): Promise<string> {
    const grant = new provider.Grant({ accountId: request.principalId, clientId: request.clientId });
    const scopes = request.scopes.join(' ');
    // It says who the user is, which the token does anyway, and is asked for with `max_age`.
    grant.addOIDCScope(`openid ${scopes}`);
    grant.addResourceScope(request.resource, scopes);
    const id = await grant.save();
    await this.store.bind(id, request.resource, loginId);
    return id;
  }

  /** For the page of a user's own, which asks nobody: it opens nothing, and lives for the request alone. */
  private async ownPage(provider: Provider, accountId: string): Promise<string> {
    const grant = new provider.Grant({ accountId, clientId: accountClientId });
    grant.addOIDCScope('openid');
    return grant.save();
  }
}
