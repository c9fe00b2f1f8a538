import type { ServerResponse } from 'node:http';
import { upstreamIssuerMetadata } from '../credentials/identity-token.service.ts';
import {
  clientDocument,
  clientDocumentPath,
  signedClientDocumentPath,
} from '../credentials/upstream-client.service.ts';
import { keysKeptSeconds, type UpstreamKeys } from '../credentials/upstream-keys.service.ts';

const documentKeptSeconds = 3_600;

export type UpstreamDocument = 'client' | 'signedClient' | 'issuer' | 'keys';

/**
 * What the gateway publishes of itself toward upstreams and their authorization servers: Client ID Metadata Documents, and
 * the keys that verify what it signs.
 */
export async function sendUpstreamDocument(
  response: ServerResponse,
  document: UpstreamDocument,
  { issuer, keys }: { readonly issuer: string; readonly keys: Pick<UpstreamKeys, 'published'> },
): Promise<void> {
  const body = document === 'keys' ? await keys.published() : written(document, issuer);
  const keptSeconds = document === 'keys' ? keysKeptSeconds : documentKeptSeconds;
  response.writeHead(200, {
    'content-type': 'application/json',
    'cache-control': `public, max-age=${keptSeconds}`,
    'x-content-type-options': 'nosniff',
  });
  response.end(JSON.stringify(body));
}

function written(document: Exclude<UpstreamDocument, 'keys'>, issuer: string): object {
  switch (document) {
    case 'client':
      return clientDocument(issuer, clientDocumentPath);
    case 'signedClient':
      return clientDocument(issuer, signedClientDocumentPath);
    case 'issuer':
      return upstreamIssuerMetadata(issuer);
  }
}
