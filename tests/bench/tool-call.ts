import type { LoadRequest } from './load.ts';

/** Discovery needs the tools that are called; the reference server has this one. */
const toolName = 'test_simple_text';

/** A modern `tools/call`. */
export function toolCall(
  url: URL,
  key: string | null,
  name = toolName,
  args: Readonly<Record<string, unknown>> = { query: 'open issues assigned to me', limit: 20 },
): LoadRequest {
  const request = modernRequest(url, key, 'tools/call', { name, arguments: args });
  return { ...request, headers: { ...request.headers, 'mcp-name': name } };
}

/** A modern `subscriptions/listen`, whose answer is a stream that stays. */
export function listenRequest(url: URL, key: string): LoadRequest {
  return modernRequest(url, key, 'subscriptions/listen', { notifications: { toolsListChanged: true } });
}

function modernRequest(
  url: URL,
  key: string | null,
  method: string,
  params: Readonly<Record<string, unknown>>,
): LoadRequest {
  const protocolRevision = '2026-07-28';
  const prefix = 'io.modelcontextprotocol/';
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method,
    params: {
      ...params,
      _meta: {
        [`${prefix}protocolVersion`]: protocolRevision,
        [`${prefix}clientInfo`]: { name: 'bench', version: '1.0.0' },
        [`${prefix}clientCapabilities`]: {},
      },
    },
  });
  const headers = {
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': protocolRevision,
    'mcp-method': method,
    ...(key === null ? {} : { authorization: `Bearer ${key}` }),
  };
  return { url, headers, body };
}
