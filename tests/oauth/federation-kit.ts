import { systemClock } from '@sallyport/schema/platform';
import { z } from 'zod';
import type { Administrator } from '../kit/administrator.ts';
import { asked, authorizationRequest, type OAuthPlane, redirectUri, submit, tokenRequest } from './oauth-kit.ts';
import { Browser, type Shown } from './browser.ts';
import { type FakeIdentityProvider, idpClient } from './fake-identity-provider.ts';

/** Registers the provider at the control plane. */
export async function createProvider(
  plane: OAuthPlane,
  of: FakeIdentityProvider,
  name: string,
  input: Record<string, unknown> = {},
): Promise<{ readonly id: string }> {
  const query = `mutation ($input: CreateIdentityProviderInput!) {
    createIdentityProvider(input: $input) { id hasClientSecret redirectUri backChannelLogoutUri revision }
  }`;
  const given = { name, issuer: of.issuer, clientId: idpClient.id, clientSecret: idpClient.secret, ...input };
  return (await asked(plane, query, { input: given })).createIdentityProvider;
}

/** Follows a browser over all servers until it is sent to the client or stays on a page. */
export async function follow(browser: Browser, from: URL): Promise<Shown> {
  let shown = await browser.request(from);
  for (let hops = 0; shown.location !== null && shown.location.hostname === '127.0.0.1'; hops++) {
    if (hops > 20) throw new Error('too many redirects');
    shown = await browser.request(shown.location);
  }
  return shown;
}

/** Begins an authorization, and the link to the provider on the page it shows. */
export async function linkTo(
  plane: Pick<OAuthPlane, 'issuer'>,
  clientId: string,
  browser: Browser,
  name: string,
  parameters: Readonly<Record<string, string>> = {},
) {
  const request = authorizationRequest(plane, clientId, parameters);
  const page = await browser.follow(request.url);
  const link = new RegExp(`href="([^"]+)">Log in with ${name}<`).exec(page.text)?.[1]?.replaceAll('&amp;', '&');
  if (link === undefined) throw new Error(`no link to ${name}: ${page.text}`);
  return { request, link: new URL(link, plane.issuer) };
}

/** Where the browser comes back to from another server. */
export async function answerFrom(plane: OAuthPlane, browser: Browser, at: URL): Promise<URL> {
  let shown = await browser.request(at);
  while (shown.location !== null && shown.location.origin !== plane.issuer) {
    shown = await browser.request(shown.location);
  }
  if (shown.location === null) throw new Error(`not sent back: ${shown.text}`);
  return shown.location;
}

/** Users who log in at an identity provider, by one client, to a control plane that has nodes. */
export interface FederatedUsers {
  readonly idp: FakeIdentityProvider;
  readonly issuer: string;
  readonly providerId: string;
  readonly clientId: string;
}

const identified = z.object({ id: z.string() });

export async function connectUsers(
  administrator: Administrator,
  idp: FakeIdentityProvider,
  issuer: string,
): Promise<FederatedUsers> {
  const provider = { name: 'Example', issuer: idp.issuer, clientId: idpClient.id, clientSecret: idpClient.secret };
  const { id: providerId } = await administrator.mutate('createIdentityProvider', provider, 'id', identified);
  const client = { name: 'Application', authentication: 'NONE', redirectUris: [redirectUri] };
  const shape = z.object({ client: identified });
  const made = await administrator.mutate('createOAuthClient', client, 'client { id }', shape);
  return { idp, issuer, providerId, clientId: made.client.id };
}

/** The access token of the user whom the provider logs in next, who allows what the client asks for. */
export async function tokenOf(users: FederatedUsers, resource: string): Promise<string> {
  const browser = new Browser();
  const asking = { resource, scope: 'mcp' };
  const { request, link } = await linkTo(users, users.clientId, browser, 'Example', asking);
  const shown = await follow(browser, link);
  const { location } = shown.location === null ? await submit(browser, shown, { decision: 'allow' }) : shown;
  const answer = await tokenRequest(users, {
    grant_type: 'authorization_code',
    code: location?.searchParams.get('code') ?? '',
    code_verifier: request.verifier,
    redirect_uri: redirectUri,
    client_id: users.clientId,
    resource,
  });
  return z.object({ access_token: z.string() }).parse(answer.body).access_token;
}

/** The provider says that a session of a user there has ended (OpenID Connect Back-Channel Logout 1.0). */
export async function endSessionAt({ idp, issuer, providerId }: FederatedUsers, sessionId: string): Promise<void> {
  const now = Math.floor(systemClock.now() / 1000);
  const claims = { iss: idp.issuer, aud: idpClient.id, iat: now, exp: now + 120, jti: crypto.randomUUID() };
  const events = { 'http://schemas.openid.net/event/backchannel-logout': {} };
  const token = await idp.sign({ ...claims, sid: sessionId, events }, { typ: 'logout+jwt' });
  const url = `${issuer}/oauth/backchannel-logout/${providerId}`;
  const { status } = await fetch(url, { method: 'POST', body: new URLSearchParams({ logout_token: token }) });
  if (status !== 200) throw new Error(`the logout was answered ${status}`);
}
