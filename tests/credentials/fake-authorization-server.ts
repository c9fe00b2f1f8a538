/**
 * An authorization server of an upstream: codes with PKCE, refresh tokens that are good once and whose second use revokes
 * the whole family (RFC 9700 §4.14), client credentials, registration and revocation. Says yes to everybody at once.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

/** What one consent gave, and all that was had by refreshing it. */
export interface TokenFamily {
  isRevoked: boolean;
  /** The refresh token that is good. */
  current: string;
  /** The newest access token. */
  access: string;
  /** Times that it was refreshed. */
  refreshes: number;
}
interface Code {
  readonly challenge: string;
  readonly redirectUri: string;
  readonly resource: string;
}

/** What a client is told that registers itself: with a secret, where it wants to prove itself by one. */
function registered(asked: Readonly<Record<string, unknown>>): object {
  const isPublic = asked['token_endpoint_auth_method'] === 'none';
  return { client_id: `dcr_${randomUUID()}`, ...asked, ...(isPublic ? {} : { client_secret: randomUUID() }) };
}

export class FakeAuthorizationServer {
  readonly requests: {
    readonly path: string;
    readonly query: string;
    readonly form: URLSearchParams;
    readonly authorization: string | undefined;
    /** Names and values in turn, as they stood on the wire. */
    readonly rawHeaders: readonly string[];
  }[] = [];
  /** Access tokens that upstreams accept. */
  readonly live = new Set<string>();
  readonly families = new Map<string, TokenFamily>();
  /** What the metadata says instead of the truth; undefined leaves a member out. */
  metadata: Record<string, unknown> = {};
  /** `iss` of answers; null leaves it out. */
  iss: string | null | undefined;
  /** Seconds; undefined: it does not say. */
  expiresIn: number | undefined = 3_600;
  givesRefreshTokens = true;
  /** Whether the access token of before ends when another is had by refreshing. */
  endsAccessByRefresh = false;
  /** Scopes that answers to a refresh name; null: they name none. */
  refreshedScope: string | null = null;
  /** Takes the place of the answer to the next request for tokens, which is worked off all the same where it says so. */
  onToken: ((response: ServerResponse) => 'answered' | 'cut' | undefined) | undefined;
  /** Requests for tokens wait for it before they are worked off. */
  beforeWork: Promise<void> | undefined;
  /** Answers to requests for tokens wait for it, which are worked off before. */
  beforeAnswer: Promise<void> | undefined;
  /** Who issues tokens, by what the server is said to say of itself; undefined: this one. */
  named: string | undefined;
  /** Whether all that users allowed a client is one grant, which a revocation ends as a whole (RFC 7009 §2.1). */
  keepsOneGrant = false;
  /** Of answers to revocations, which are then not worked off; 200 for those that are. */
  revocationStatus = 200;
  /** Answers to revocations wait for it. */
  beforeRevocation: Promise<void> | undefined;
  resource = '';
  /** What the answer to a token exchange (RFC 8693) says besides the token, or the error instead of one. */
  onExchange: (form: URLSearchParams) => { readonly error: string } | Readonly<Record<string, unknown>> = () => ({
    issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
  });
  private readonly codes = new Map<string, Code>();
  private readonly familyOf = new Map<string, TokenFamily>();
  private readonly server = createServer((request, response) => void this.serve(request, response));
  url = '';

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    const address = this.server.address();
    this.url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}`;
    return this;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  asked(path: string, grant?: string): number {
    return this.requests.filter(
      (one) => one.path === path && (grant === undefined || one.form.get('grant_type') === grant),
    ).length;
  }

  /** A refresh token of a new family, as a user's consent would give. */
  issue(): { readonly refreshToken: string; readonly accessToken: string } {
    const family: TokenFamily = { isRevoked: false, current: '', access: '', refreshes: -1 };
    this.families.set(randomUUID(), family);
    return this.rotate(family);
  }

  get familiesRevoked(): number {
    return [...this.families.values()].filter(({ isRevoked }) => isRevoked).length;
  }

  private rotate(family: TokenFamily) {
    const refreshToken = `rt_${randomUUID()}`;
    const accessToken = `at_${randomUUID()}`;
    if (this.endsAccessByRefresh) this.live.delete(family.access);
    Object.assign(family, { current: refreshToken, access: accessToken, refreshes: family.refreshes + 1 });
    this.familyOf.set(refreshToken, family);
    this.live.add(accessToken);
    return { refreshToken, accessToken };
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(Buffer.from(chunk as Uint8Array));
    const url = new URL(request.url ?? '', this.url);
    const body = Buffer.concat(chunks).toString();
    const { rawHeaders } = request;
    const { authorization } = request.headers;
    const { pathname: path, search: query } = url;
    this.requests.push({ path, query, form: new URLSearchParams(body), authorization, rawHeaders });
    const json = (status: number, value: unknown): void =>
      void response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    switch (url.pathname) {
      case '/.well-known/oauth-authorization-server/cut':
        return void response.destroy();
      case '/prm':
        return json(200, {
          resource: this.resource,
          authorization_servers: [this.named ?? this.url],
          scopes_supported: ['tools'],
        });
      case '/.well-known/oauth-authorization-server':
        return json(200, this.metadataNow());
      case '/register':
        return json(201, registered(JSON.parse(body) as Readonly<Record<string, unknown>>));
      case '/authorize':
        return this.authorize(url, response);
      case '/token':
        return await this.token(new URLSearchParams(body), response, json);
      case '/revoke':
        await this.beforeRevocation;
        if (this.revocationStatus === 200) this.revoke(new URLSearchParams(body).get('token') ?? '');
        return void response.writeHead(this.revocationStatus).end();
      default:
        return json(404, {});
    }
  }

  private metadataNow(): object {
    return {
      issuer: this.url,
      authorization_endpoint: `${this.url}/authorize`,
      token_endpoint: `${this.url}/token`,
      registration_endpoint: `${this.url}/register`,
      revocation_endpoint: `${this.url}/revoke`,
      code_challenge_methods_supported: ['S256'],
      authorization_response_iss_parameter_supported: true,
      ...this.metadata,
    };
  }

  private authorize(url: URL, response: ServerResponse): void {
    const asked = url.searchParams;
    const code = randomUUID();
    const redirectUri = asked.get('redirect_uri') ?? '';
    const challenge = asked.get('code_challenge') ?? '';
    this.codes.set(code, { challenge, redirectUri, resource: asked.get('resource') ?? '' });
    const back = new URL(redirectUri);
    back.searchParams.set('code', code);
    back.searchParams.set('state', asked.get('state') ?? '');
    if (this.iss !== null) back.searchParams.set('iss', this.iss ?? this.url);
    response.writeHead(302, { location: back.href }).end();
  }

  private async token(
    form: URLSearchParams,
    response: ServerResponse,
    json: (status: number, value: unknown) => void,
  ): Promise<void> {
    await this.beforeWork;
    const instead = this.onToken?.(response);
    if (instead === 'answered') return;
    if (form.get('grant_type')?.endsWith(':token-exchange') === true) return this.exchange(form, json);
    const answer = this.grant(form);
    await this.beforeAnswer;
    if (instead === 'cut') return void response.destroy();
    if (answer === undefined) return json(400, { error: 'invalid_grant' });
    const { accessToken, refreshToken } = answer;
    json(200, {
      access_token: accessToken,
      token_type: 'Bearer',
      expires_in: this.expiresIn,
      ...(refreshToken === undefined || !this.givesRefreshTokens ? {} : { refresh_token: refreshToken }),
      ...(form.get('grant_type') === 'refresh_token' && this.refreshedScope !== null
        ? { scope: this.refreshedScope }
        : {}),
    });
  }

  /** RFC 7523: whatever it says. */
  private assert(): { accessToken: string } {
    const accessToken = `ja_${randomUUID()}`;
    this.live.add(accessToken);
    return { accessToken };
  }

  private exchange(form: URLSearchParams, json: (status: number, value: unknown) => void): void {
    const answer = this.onExchange(form);
    if ('error' in answer) return json(400, answer);
    const accessToken = `tx_${randomUUID()}`;
    this.live.add(accessToken);
    json(200, { access_token: accessToken, token_type: 'Bearer', expires_in: this.expiresIn, ...answer });
  }

  private grant(form: URLSearchParams): { accessToken: string; refreshToken?: string } | undefined {
    if (form.get('resource') !== this.resource) return undefined;
    switch (form.get('grant_type')) {
      case 'client_credentials': {
        const accessToken = `cc_${randomUUID()}`;
        this.live.add(accessToken);
        return { accessToken };
      }
      case 'urn:ietf:params:oauth:grant-type:jwt-bearer':
        return this.assert();
      case 'authorization_code': {
        const code = this.codes.get(form.get('code') ?? '');
        this.codes.delete(form.get('code') ?? '');
        const proof = createHash('sha256')
          .update(form.get('code_verifier') ?? '')
          .digest('base64url');
        const isGood = code?.challenge === proof && code.redirectUri === form.get('redirect_uri');
        return isGood ? this.issue() : undefined;
      }
      default:
        return this.refresh(form.get('refresh_token') ?? '');
    }
  }

  private refresh(token: string): { accessToken: string; refreshToken: string } | undefined {
    const family = this.familyOf.get(token);
    if (family === undefined || family.isRevoked) return undefined;
    if (family.current === token) return this.rotate(family);
    family.isRevoked = true;
    return undefined;
  }

  private revoke(token: string): void {
    this.live.delete(token);
    const family = this.familyOf.get(token);
    // One that was used up is unknown by now (RFC 7009 §2.2).
    if (family?.current !== token) return;
    const ended = this.keepsOneGrant ? this.families.values() : [family];
    for (const one of ended) one.isRevoked = true;
  }
}
