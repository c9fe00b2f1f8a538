import { createGraphqlClient, type GraphqlClient } from '@sallyport/cli';
import type { ControlPlane } from '@sallyport/control-plane';
import { z } from 'zod';
import type { Administrator } from '../kit/administrator.ts';
import { Browser, type Shown } from '../oauth/browser.ts';
import { type FederatedUsers, follow } from '../oauth/federation-kit.ts';

/** Where people connect their accounts. */
export interface ConnectingPlane {
  readonly administrator: Administrator;
  readonly controlPlane: Pick<ControlPlane, 'graphqlUrl'>;
}

const identified = z.object({ id: z.string() });

export interface Somebody {
  readonly id: string;
  /** For nodes. */
  readonly key: string;
  readonly api: GraphqlClient;
}

export async function somebody(plane: ConnectingPlane, name: string): Promise<Somebody> {
  const { id } = await plane.administrator.mutate('createUser', { name }, 'id', identified);
  return withKeys(plane, id, name);
}

/** The user whom the identity provider logs in, after his first login. */
export async function federated(plane: ConnectingPlane, { idp, issuer }: FederatedUsers): Promise<Somebody> {
  await logIn(new Browser(), `${issuer}/oauth/account`);
  const query = '{ users(first: 50) { edges { node { id name issuer subject } } } }';
  const user = z.object({ id: z.string(), name: z.string(), issuer: z.string(), subject: z.string() });
  const shape = z.object({ users: z.object({ edges: z.array(z.object({ node: user })) }) });
  const { users } = await plane.administrator.api.ask(query, {}, shape);
  const own = users.edges.find(({ node }) => node.issuer === idp.issuer && node.subject === idp.subject);
  if (own === undefined) throw new Error(`${idp.subject} is not among ${JSON.stringify(users)}`);
  return withKeys(plane, own.node.id, own.node.name);
}

/** Opens a page that wants a login, and logs in with the identity provider. */
export async function logIn(browser: Browser, url: string): Promise<Shown> {
  const shown = await browser.follow(url);
  const link = /href="([^"]+)">Log in with Example</.exec(shown.text)?.[1]?.replaceAll('&amp;', '&');
  if (link === undefined) throw new Error(`no link to the identity provider: ${shown.text}`);
  return follow(browser, new URL(link, shown.url));
}

/** A user who is there, with a key for nodes and one for the API. */
export async function withKeys(
  { administrator, controlPlane }: ConnectingPlane,
  id: string,
  name: string,
): Promise<Somebody> {
  const keyOf = async (scope: string): Promise<string> => {
    const expiresAt = new Date(Date.now() + 30 * 86_400_000).toISOString();
    const input = { principalId: id, name: `${name} ${scope}`, scopes: [scope], expiresAt };
    return (await administrator.mutate('createApiKey', input, 'secret', z.object({ secret: z.string() }))).secret;
  };
  return { id, key: await keyOf('MCP'), api: createGraphqlClient(controlPlane.graphqlUrl ?? '', await keyOf('API')) };
}

export async function linkOf({ api }: Somebody, serverId: string): Promise<string> {
  const query = 'query ($id: ID!) { connectLink(serverId: $id) }';
  return (await api.ask(query, { id: serverId }, z.object({ connectLink: z.string() }))).connectLink;
}

export const hidden = (html: string, name: string): string =>
  new RegExp(`name="${name}" value="([^"]*)"`).exec(html)?.[1] ?? '';
export const actionOf = (html: string): string => /<form method="post" action="([^"]+)"/.exec(html)?.[1] ?? '';

/** Presses a button of a page. */
export function press(browser: Browser, shown: Shown, button: Readonly<Record<string, string>>): Promise<Shown> {
  const form = { csrf: hidden(shown.text, 'csrf'), ...button };
  return browser.follow(new URL(actionOf(shown.text), shown.url), form);
}

/** Opens a page, logging in as somebody where asked. */
export async function open(
  harness: ConnectingPlane,
  browser: Browser,
  url: string | URL,
  who: Somebody,
): Promise<Shown> {
  const shown = await browser.follow(url);
  if (!shown.text.includes('name="code"')) return shown;
  const login = z.object({ code: z.string() });
  const { code } = await harness.administrator.mutate('createLoginCode', { userId: who.id }, 'code', login);
  return press(browser, shown, { code });
}

/** Goes to the authorization server and back to where it sends the browser; does not open that address. */
export async function answerAt(authorizationUrl: string | URL | null): Promise<URL> {
  const back = await fetch(authorizationUrl ?? '', { redirect: 'manual' });
  return new URL(back.headers.get('location') ?? '');
}

/** The same from a link on. */
export async function answerFor(harness: ConnectingPlane, browser: Browser, link: string, who: Somebody): Promise<URL> {
  const shown = await open(harness, browser, link, who);
  return answerAt((await press(browser, shown, { connect: 'yes' })).location);
}

export async function connect(harness: ConnectingPlane, who: Somebody, serverId: string): Promise<Shown> {
  const browser = new Browser();
  return browser.request(await answerFor(harness, browser, await linkOf(who, serverId), who));
}
