import { type IncomingHttpHeaders, request } from 'node:http';
import { testKey } from './pipeline-node.ts';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into what came
  readonly json: any;
}

export const modernRevision = '2026-07-28';

/** What was sealed, with one character changed; not one of the last, whose bits may not all count. */
export function changed(sealed: string): string {
  return `${sealed.slice(0, -8)}${sealed.at(-8) === 'A' ? 'B' : 'A'}${sealed.slice(-7)}`;
}

/** `params` of a modern request: the envelope and what the method takes. */
export function modernParams(params: Readonly<Record<string, unknown>> = {}, capabilities: unknown = {}) {
  return {
    ...params,
    _meta: {
      'io.modelcontextprotocol/protocolVersion': modernRevision,
      'io.modelcontextprotocol/clientCapabilities': capabilities,
      'io.modelcontextprotocol/clientInfo': { name: 'test', version: '1' },
    },
  };
}

/** A modern request and the headers that mirror it. */
export function modern(method: string, params: Readonly<Record<string, unknown>> = {}, id: string | number = 1) {
  const name = params['name'] ?? params['uri'];
  return {
    body: JSON.stringify({ jsonrpc: '2.0', id, method, params: modernParams(params) }),
    headers: {
      'mcp-protocol-version': modernRevision,
      'mcp-method': method,
      ...(typeof name === 'string' ? { 'mcp-name': name } : {}),
    },
  };
}

export function legacy(method: string, params: Readonly<Record<string, unknown>> = {}, id: string | number = 1) {
  return {
    body: JSON.stringify({ jsonrpc: '2.0', id, method, params }),
    headers: { 'mcp-protocol-version': '2025-11-25' },
  };
}

export interface Sent {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string | string[] | undefined>>;
  readonly body?: string | Buffer;
  readonly signal?: AbortSignal;
  /** Called with each chunk of the answer as it comes. */
  readonly onChunk?: (text: string) => void;
}

/** Sends a request as it is; headers default to those of a client with the test key, `undefined` leaves one out. */
export function send(url: string, sent: Sent = {}): Promise<Answer> {
  const headers = {
    authorization: `Bearer ${testKey}`,
    accept: 'application/json, text/event-stream',
    ...(sent.body === undefined ? {} : { 'content-type': 'application/json' }),
    ...sent.headers,
  };
  const given = Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
  return new Promise((resolve, reject) => {
    const outgoing = request(
      url,
      { method: sent.method ?? 'POST', headers: given as Record<string, string>, agent: false, signal: sent.signal },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          sent.onChunk?.(chunk);
        });
        response.once('error', reject);
        response.once('end', () => {
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text, json: parsed(text) });
        });
      },
    );
    outgoing.once('error', reject);
    outgoing.end(sent.body);
  });
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The JSON messages of an event stream. */
export function eventsOf(
  text: string,
): { id?: unknown; method?: string; result?: unknown; error?: { code: number } }[] {
  return text.split('\n').flatMap((line) => (line.startsWith('data: {') ? [JSON.parse(line.slice(6))] : []));
}
