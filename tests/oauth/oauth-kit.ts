import { createHash, randomBytes } from 'node:crypto';
import { freePort } from '@sallyport/cli';
import { decodeJwt } from 'jose';
import { startTestControlPlane, type TestControlPlane, type TestControlPlaneOptions } from '../kit/control-plane.ts';
import { Browser, formOf } from './browser.ts';

export const nodesUrl = 'https://mcp.example.com';
export const resource = `${nodesUrl}/mcp/github`;
export const redirectUri = 'https://client.example.com/callback';

export interface OAuthPlane extends TestControlPlane {
  readonly issuer: string;
}

/** A control plane with its authorization server; another replica of one shares `databaseUrl` and issuer. */
export async function startOAuthPlane(
  options: TestControlPlaneOptions & { readonly issuer?: string; readonly port?: number } = {},
): Promise<OAuthPlane> {
  const port = options.port ?? (await freePort());
  const issuer = options.issuer ?? `http://127.0.0.1:${port}`;
  const urls = { SALLYPORT_PUBLIC_URL: issuer, SALLYPORT_NODES_URL: nodesUrl };
  const environment = { SALLYPORT_LISTEN_PORT: String(port), ...urls, ...options.environment };
  return { ...(await startTestControlPlane({ ...options, environment })), issuer };
}

/** Data of an answer without errors. */
export async function asked(plane: TestControlPlane, query: string, variables?: Record<string, unknown>) {
  const answer = await plane.ask(query, variables);
  if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
  return answer.data;
}

export async function createUser(plane: TestControlPlane, name: string): Promise<string> {
  const query = 'mutation ($name: String!) { createUser(input: { name: $name }) { id } }';
  return (await asked(plane, query, { name })).createUser.id;
}

export async function loginCode(plane: TestControlPlane, userId: string): Promise<string> {
  const query = 'mutation ($userId: ID!) { createLoginCode(input: { userId: $userId }) { code } }';
  return (await asked(plane, query, { userId })).createLoginCode.code;
}

export interface TestClient {
  readonly id: string;
  readonly secret: string | null;
}

export async function createClient(plane: TestControlPlane, input: Record<string, unknown> = {}): Promise<TestClient> {
  const query = `mutation ($input: CreateOAuthClientInput!) {
    createOAuthClient(input: $input) { secret client { id } }
  }`;
  const given = { name: 'Test client', authentication: 'NONE', redirectUris: [redirectUri], ...input };
  const { secret, client } = (await asked(plane, query, { input: given })).createOAuthClient;
  return { id: client.id, secret };
}

export interface AuthorizationRequest {
  readonly url: URL;
  readonly verifier: string;
  readonly state: string;
}

export function authorizationRequest(
  plane: Pick<OAuthPlane, 'issuer'>,
  clientId: string,
  parameters: Readonly<Record<string, string | undefined>> = {},
): AuthorizationRequest {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(8).toString('hex');
  const url = new URL('/oauth/authorize', plane.issuer);
  const all = {
    response_type: 'code',
    client_id: clientId,
    redirect_uri: redirectUri,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    state,
    resource,
    scope: 'mcp:tools',
    ...parameters,
  };
  for (const [name, value] of Object.entries(all)) if (value !== undefined) url.searchParams.set(name, value);
  return { url, verifier, state };
}

type Shown = Awaited<ReturnType<Browser['follow']>>;

/** Submits the form of a page with what a person adds. */
export function submit(browser: Browser, shown: Shown, added: Readonly<Record<string, string>>): Promise<Shown> {
  const { action, fields } = formOf(shown.text);
  return browser.follow(new URL(action, shown.url), { ...fields, ...added });
}

/** Logs in with a code where asked, and allows where asked; where the browser was sent in the end. */
export async function authorize(
  plane: OAuthPlane,
  browser: Browser,
  request: AuthorizationRequest,
  userId: string,
): Promise<URL> {
  let shown = await browser.follow(request.url);
  if (shown.text.includes('name="code"')) {
    shown = await submit(browser, shown, { code: await loginCode(plane, userId) });
  }
  if (shown.text.includes('name="decision"')) shown = await submit(browser, shown, { decision: 'allow' });
  if (shown.location === null) throw new Error(`not sent back: ${shown.status} ${shown.text}`);
  return shown.location;
}

export interface TokenAnswer {
  readonly status: number;
  // oxlint-disable-next-line typescript/no-explicit-any -- the grant decides the shape of the answer
  readonly body: any;
}

export async function tokenRequest(
  plane: Pick<OAuthPlane, 'issuer'>,
  form: Readonly<Record<string, string | undefined>>,
  client?: TestClient,
): Promise<TokenAnswer> {
  const given = Object.entries(form).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const basic = client?.secret == null ? {} : { authorization: `Basic ${btoa(`${client.id}:${client.secret}`)}` };
  const response = await fetch(`${plane.issuer}/oauth/token`, {
    method: 'POST',
    headers: basic,
    body: new URLSearchParams(given),
  });
  return { status: response.status, body: await response.json() };
}

export function exchange(
  plane: OAuthPlane,
  clientId: string,
  request: AuthorizationRequest,
  redirect: URL,
): Promise<TokenAnswer> {
  return tokenRequest(plane, {
    grant_type: 'authorization_code',
    code: redirect.searchParams.get('code') ?? '',
    code_verifier: request.verifier,
    redirect_uri: redirectUri,
    client_id: clientId,
    resource,
  });
}

export function refresh(plane: OAuthPlane, clientId: string, refreshToken: string): Promise<TokenAnswer> {
  return tokenRequest(plane, { grant_type: 'refresh_token', client_id: clientId, refresh_token: refreshToken });
}

/** The whole way from nothing to tokens. */
export async function tokensFor(plane: OAuthPlane, clientId: string, userId: string, browser = new Browser()) {
  const request = authorizationRequest(plane, clientId);
  const { body } = await exchange(plane, clientId, request, await authorize(plane, browser, request, userId));
  return {
    access: String(body.access_token),
    refresh: String(body.refresh_token),
    claims: decodeJwt(body.access_token),
  };
}
