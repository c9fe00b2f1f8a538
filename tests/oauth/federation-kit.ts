import { asked, authorizationRequest, type OAuthPlane } from './oauth-kit.ts';
import type { Browser, Shown } from './browser.ts';
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
export async function linkTo(plane: OAuthPlane, clientId: string, browser: Browser, name: string) {
  const request = authorizationRequest(plane, clientId);
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
