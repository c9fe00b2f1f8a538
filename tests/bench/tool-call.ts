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
  const protocolRevision = '2026-07-28';
  const prefix = 'io.modelcontextprotocol/';
  const body = JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method: 'tools/call',
    params: {
      name,
      arguments: args,
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
    'mcp-method': 'tools/call',
    'mcp-name': name,
    ...(key === null ? {} : { authorization: `Bearer ${key}` }),
  };
  return { url, headers, body };
}
