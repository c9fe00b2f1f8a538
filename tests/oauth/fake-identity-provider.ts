import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { decodeJwt, type JWTPayload, SignJWT } from 'jose';
import { type Configuration, errors, type KoaContextWithOIDC, Provider } from 'oidc-provider';
import { freePort } from '@sallyport/cli';

export const idpClient = { id: 'sallyport', secret: 'a secret that the provider gave us' };

/** A real OpenID Connect provider in this process, whose users log in by themselves, and whose tokens may be bent. */
export interface FakeIdentityProvider {
  readonly issuer: string;
  readonly port: number;
  /** Who logs in next. */
  subject: string;
  /** What is said in the next ID tokens; a member that is undefined is left out. */
  claims: Record<string, unknown>;
  /** What becomes of an ID token on its way. */
  onTheWay: (token: string) => string | Promise<string>;
  /** Groups at the endpoint that a token's overage must be resolved at. */
  groups: readonly string[];
  /** Requests for groups; those to the place that a token named. */
  readonly groupRequests: string[];
  readonly foreignRequests: string[];
  /** Every request: its target, and names and values of its headers in turn. */
  readonly requests: { readonly target: string; readonly rawHeaders: readonly string[] }[];
  /** Requests for the keys. */
  keyRequests: number;
  /** Whether requests for the keys are answered with 503. */
  withholdsKeys: boolean;
  /** Requests for tokens. */
  tokenRequests: number;
  /** Parameters of the last authorization request. */
  lastRequest: URLSearchParams;
  /** Whether a login gives a refresh token. */
  givesRefreshTokens: boolean;
  /** Requests for assertions (ID-JAG), and what the next one says instead of what was asked for; null refuses it. */
  readonly assertionRequests: Record<string, unknown>[];
  assertion: Readonly<Record<string, unknown>> | null;
  /** Signs a token with the provider's key. */
  sign(claims: JWTPayload, header?: Record<string, unknown>): Promise<string>;
  stop(): Promise<void>;
}

const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange';
const assertionTokenType = 'urn:ietf:params:oauth:token-type:id-jag';

function configuration(jwk: object, redirectPrefix: string, givesRefreshTokens: () => boolean): Configuration {
  return {
    jwks: { keys: [{ ...jwk, kid: 'idp-1', use: 'sig', alg: 'RS256' }] },
    clients: [
      {
        client_id: idpClient.id,
        client_secret: idpClient.secret,
        redirect_uris: [redirectPrefix],
        grant_types: ['authorization_code', 'client_credentials', 'refresh_token', exchangeGrant],
        response_types: ['code'],
        token_endpoint_auth_method: 'client_secret_post',
      },
    ],
    scopes: ['openid', 'profile', 'email'],
    acrValues: ['mfa'],
    features: { devInteractions: { enabled: false }, clientCredentials: { enabled: true } },
    pkce: { required: () => true },
    issueRefreshToken: () => Promise.resolve(givesRefreshTokens()),
    interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
    findAccount: (_ctx, accountId) => ({ accountId, claims: () => ({ sub: accountId }) }),
    renderError: (ctx, out) => {
      ctx.body = JSON.stringify(out);
    },
    ttl: {
      Session: 60,
      Interaction: 60,
      Grant: 60,
      AccessToken: 60,
      IdToken: 60,
      AuthorizationCode: 60,
      ClientCredentials: 60,
      RefreshToken: 60,
    },
  };
}

type Login = Pick<FakeIdentityProvider, 'subject' | 'claims' | 'onTheWay' | 'sign'>;

/** The exchange of an ID token for an assertion, for a client that the provider calls as its authorization server does. */
function registerExchange(provider: Provider, idp: FakeIdentityProvider): void {
  const names = ['requested_token_type', 'subject_token', 'subject_token_type', 'audience', 'resource', 'scope'];
  const handler = async (ctx: KoaContextWithOIDC): Promise<void> => {
    const params = { ...ctx.oidc.params } as Record<string, string>;
    idp.assertionRequests.push(params);
    if (idp.assertion === null) throw new errors.InvalidGrant('the login is over');
    const now = Math.floor(Date.now() / 1000);
    const { sub } = decodeJwt(params['subject_token'] ?? '');
    const said = { iss: idp.issuer, sub, aud: params['audience'], resource: params['resource'], jti: randomUUID() };
    const claims = { ...said, client_id: 'gateway', iat: now, exp: now + 60, ...idp.assertion };
    const token = await idp.sign(claims as JWTPayload, { typ: 'oauth-id-jag+jwt' });
    ctx.body = { access_token: token, issued_token_type: assertionTokenType, token_type: 'N_A', expires_in: 60 };
  };
  provider.registerGrantType(exchangeGrant, handler, names, []);
}

/** Logs the user in who is set, and consents. */
async function interact(provider: Provider, idp: Login, request: IncomingMessage, response: ServerResponse) {
  const { prompt, params } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    await provider.interactionFinished(request, response, { login: { accountId: idp.subject } });
    return;
  }
  const grant = new provider.Grant({ accountId: idp.subject, clientId: String(params['client_id']) });
  grant.addOIDCScope('openid profile email');
  const consent = { grantId: await grant.save() };
  await provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

/** Gives the answer of the token endpoint with another ID token in place of the library's. */
function bent(idp: Login, response: ServerResponse): ServerResponse {
  const end = response.end.bind(response);
  response.end = ((body?: unknown) => {
    const text = typeof body === 'string' ? body : '';
    const answer = text.startsWith('{') ? (JSON.parse(text) as { id_token?: string }) : {};
    if (answer.id_token === undefined) return end(text);
    const signed = idp.sign({ ...decodeJwt(answer.id_token), ...idp.claims } as JWTPayload);
    void signed.then(idp.onTheWay).then((token) => {
      response.removeHeader('content-length');
      end(JSON.stringify({ ...answer, id_token: token }));
    });
    return response;
  }) as typeof response.end;
  return response;
}

/** @param redirectPrefix under which redirect URIs are registered: ids of providers are not known yet */
export async function startFakeIdentityProvider(redirectPrefix: string): Promise<FakeIdentityProvider> {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const port = await freePort();
  const issuer = `http://127.0.0.1:${port}`;
  const jwk = privateKey.export({ format: 'jwk' });
  const provider = new Provider(
    issuer,
    configuration(jwk, redirectPrefix, () => idp.givesRefreshTokens),
  );
  provider.Client.prototype.redirectUriAllowed = (uri: string) => uri.startsWith(redirectPrefix);
  const callback = provider.callback();
  const idp: FakeIdentityProvider = {
    issuer,
    port,
    subject: 'ada',
    claims: {},
    onTheWay: (token) => token,
    groups: [],
    groupRequests: [],
    foreignRequests: [],
    requests: [],
    keyRequests: 0,
    withholdsKeys: false,
    tokenRequests: 0,
    lastRequest: new URLSearchParams(),
    givesRefreshTokens: false,
    assertionRequests: [],
    assertion: {},
    sign: (claims, header = {}) =>
      new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'idp-1', ...header }).sign(privateKey),
    stop: () => Promise.resolve(),
  };

  registerExchange(provider, idp);
  const server = createServer((request, response) => {
    const { url: target = '/', rawHeaders } = request;
    idp.requests.push({ target, rawHeaders });
    const url = new URL(target, issuer);
    if (url.pathname === '/auth') {
      idp.lastRequest = url.searchParams;
      // Each login is one of a fresh browser.
      delete request.headers.cookie;
    }
    if (url.pathname === '/jwks') idp.keyRequests += 1;
    if (url.pathname === '/token') idp.tokenRequests += 1;
    if (url.pathname === '/jwks' && idp.withholdsKeys) response.writeHead(503).end();
    else if (url.pathname.startsWith('/interaction/')) void interact(provider, idp, request, response);
    else if (url.pathname.startsWith('/groups/')) {
      idp.groupRequests.push(`${url.pathname} ${request.headers.authorization?.split(' ')[0]}`);
      response.setHeader('content-type', 'application/json').end(JSON.stringify({ value: idp.groups }));
    } else if (url.pathname.startsWith('/named-by-the-token')) {
      idp.foreignRequests.push(url.pathname);
      response.end(JSON.stringify({ value: ['everything'] }));
    } else void callback(request, url.pathname === '/token' ? bent(idp, response) : response);
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  return Object.assign(idp, {
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}
