import { nodeRoutes, type OAuthDocument, oauthScopes, resourceUrl, routeMatcher } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import type { ProxyRequest, ProxyResponse } from './exchange.ts';

const matchRoute = routeMatcher<keyof typeof nodeRoutes>(nodeRoutes);
const wellKnown = nodeRoutes.rootMetadata.path;
/** How long clients may keep the document, in seconds. */
const metadataAgeS = 300;

/**
 * The metadata of a protected resource (RFC 9728): of an endpoint, at the path-inserted location, and of all of them at
 * the root. Public, and the same whether the endpoint exists or not. Undefined for any other request.
 */
export function resourceMetadata(request: ProxyRequest, runtime: Runtime | undefined): ProxyResponse | undefined {
  if (!request.path.startsWith(wellKnown)) return undefined;
  const oauth = runtime?.oauth?.document;
  const match = matchRoute(oauth === undefined ? request.path : withoutPrefix(request.path, oauth));
  if (match === undefined || oauth === undefined) return answer(404, '');
  if (request.method !== 'GET' && request.method !== 'HEAD' && request.method !== 'OPTIONS') return answer(405, '');
  if (request.method === 'OPTIONS') return answer(204, '');
  const slug = match.parameters['slug'];
  const document = {
    resource: slug === undefined ? oauth.nodesUrl : resourceUrl(oauth.nodesUrl, slug),
    authorization_servers: [oauth.issuer],
    scopes_supported: oauthScopes,
    bearer_methods_supported: ['header'],
  };
  return answer(200, JSON.stringify(document));
}

/** A proxy in front may leave the path of the public URL in or take it away; both mean the same. */
function withoutPrefix(path: string, { nodesUrl }: OAuthDocument): string {
  const { pathname } = new URL(nodesUrl);
  const rest = path.slice(wellKnown.length);
  return pathname !== '/' && rest.startsWith(pathname) ? `${wellKnown}${rest.slice(pathname.length)}` : path;
}

function answer(status: number, text: string): ProxyResponse {
  const headers = [
    // Any page may read it: it holds no secret, and no credential is looked at here.
    ...['access-control-allow-origin', '*', 'access-control-allow-headers', 'MCP-Protocol-Version'],
    ...(status === 200 ? ['content-type', 'application/json', 'cache-control', `max-age=${metadataAgeS}`] : []),
    ...(status === 405 ? ['allow', 'GET, HEAD, OPTIONS'] : []),
  ];
  return { status, headers, body: Buffer.from(text), follower: null };
}
