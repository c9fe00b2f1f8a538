import { createServer, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { OAuthClientProvider } from '@modelcontextprotocol/client';

type Metadata = OAuthClientProvider['clientMetadata'];
type Client = Awaited<ReturnType<OAuthClientProvider['clientInformation']>>;
type Discovered = Parameters<NonNullable<OAuthClientProvider['saveDiscoveryState']>>[0];
type Tokens = Awaited<ReturnType<OAuthClientProvider['tokens']>>;

/** What an application does that is built on an SDK: keeps all in memory, and shows a person the page. */
export class SdkLogin {
  readonly redirectUrl: string;
  readonly clientMetadataUrl?: string;
  page: URL | undefined;
  client: Client;
  held: Tokens;
  #verifier = '';
  #discovered: Discovered | undefined;

  constructor(redirectUrl: string, clientMetadataUrl?: string) {
    this.redirectUrl = redirectUrl;
    if (clientMetadataUrl !== undefined) this.clientMetadataUrl = clientMetadataUrl;
  }

  get clientMetadata(): Metadata {
    return clientMetadataOf(this.redirectUrl);
  }

  state = (): string => 'state-of-the-test';
  clientInformation = (): Client => this.client;
  saveClientInformation = (client: NonNullable<Client>): void => {
    this.client = client;
  };
  tokens = (): Tokens => this.held;
  saveTokens = (tokens: NonNullable<Tokens>): void => {
    this.held = tokens;
  };
  redirectToAuthorization = (page: URL): void => {
    this.page = page;
  };
  saveCodeVerifier = (verifier: string): void => {
    this.#verifier = verifier;
  };
  codeVerifier = (): string => this.#verifier;
  saveDiscoveryState = (discovered: Discovered): void => {
    this.#discovered = discovered;
  };
  discoveryState = (): Discovered | undefined => this.#discovered;
}

export function clientMetadataOf(redirectUrl: string): Metadata {
  return {
    client_name: 'Application of the tests',
    redirect_uris: [redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
    application_type: 'native',
  };
}

export interface TestSite {
  readonly url: string;
  stop(): Promise<void>;
}

/** Where browsers come back to. */
export async function startCallback(): Promise<TestSite> {
  return listening(
    createServer((_request, response) => response.end('done')),
    'http',
    '/callback',
  );
}

/** A site that publishes the metadata document of a client (draft-ietf-oauth-client-id-metadata-document). */
export async function startMetadataSite(tls: { key: string; cert: string }, redirectUrl: string): Promise<TestSite> {
  let url = '';
  const server = createTlsServer(tls, (_request, response) => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ client_id: url, ...clientMetadataOf(redirectUrl) }));
  });
  const site = await listening(server, 'https', '/client.json');
  url = site.url;
  return site;
}

async function listening(server: Server, scheme: string, path: string): Promise<TestSite> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `${scheme}://127.0.0.1:${port}${path}`,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
