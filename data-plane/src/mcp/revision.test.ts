import { classifyInboundRequest } from '@modelcontextprotocol/server';
import { AppError, ERRORS } from '@sallyport/schema';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseMessage } from './envelope.ts';
import {
  clientCapabilitiesKey,
  clientInfoKey,
  classifyBodiless,
  classifyMessage,
  protocolVersionKey,
} from './revision.ts';

const modern = '2026-07-28';
const envelope = {
  [protocolVersionKey]: modern,
  [clientCapabilitiesKey]: {},
  [clientInfoKey]: { name: 'c', version: '1' },
};
const call = (name: unknown, meta: unknown = envelope) => ({
  jsonrpc: '2.0',
  id: 1,
  method: 'tools/call',
  params: { name, arguments: {}, _meta: meta },
});
const modernHeaders = { 'mcp-protocol-version': modern, 'mcp-method': 'tools/call', 'mcp-name': 'echo' };

function classify(body: unknown, headers: Record<string, string>): string {
  try {
    const message = parseMessage(Buffer.from(JSON.stringify(body)));
    const { era, protocolRevision } = classifyMessage(message, new Map(Object.entries(headers)));
    return `${era} ${protocolRevision}`;
  } catch (error) {
    return error instanceof AppError ? error.code : String(error);
  }
}

const sentinel = (text: string) => `=?base64?${Buffer.from(text).toString('base64')}?=`;

describe('mirrored headers must equal the body [P02] [P03]', () => {
  test.each([
    ['as sent by a client', call('echo'), {}, `modern ${modern}`],
    ['another method', call('echo'), { 'mcp-method': 'tools/list' }, 'HEADER_MISMATCH'],
    ['the method in another case', call('echo'), { 'mcp-method': 'Tools/Call' }, 'HEADER_MISMATCH'],
    ['an empty method', call('echo'), { 'mcp-method': '' }, 'HEADER_MISMATCH'],
    ['another name', call('echo'), { 'mcp-name': 'add' }, 'HEADER_MISMATCH'],
    ['the name in another case', call('echo'), { 'mcp-name': 'Echo' }, 'HEADER_MISMATCH'],
    ['an empty name', call('echo'), { 'mcp-name': '' }, 'HEADER_MISMATCH'],
    ['the name in Base64', call('echo'), { 'mcp-name': sentinel('echo') }, `modern ${modern}`],
    ['another name in Base64', call('echo'), { 'mcp-name': sentinel('add') }, 'HEADER_MISMATCH'],
    ['a name that needs Base64', call('écho'), { 'mcp-name': sentinel('écho') }, `modern ${modern}`],
    ['a name that looks encoded', call(sentinel('a')), { 'mcp-name': sentinel(sentinel('a')) }, `modern ${modern}`],
    ['a name that looks encoded, decoded once', call(sentinel('a')), { 'mcp-name': sentinel('a') }, 'HEADER_MISMATCH'],
    ['Base64 that is none', call('echo'), { 'mcp-name': '=?base64?ZWNo*w==?=' }, 'HEADER_MISMATCH'],
    ['Base64 without padding', call('echo'), { 'mcp-name': '=?base64?ZWNobw?=' }, 'HEADER_MISMATCH'],
    ['Base64 of bytes that are not UTF-8', call('echo'), { 'mcp-name': '=?base64?/w==?=' }, 'HEADER_MISMATCH'],
    ['an upper-case marker', call('echo'), { 'mcp-name': '=?BASE64?ZWNobw==?=' }, 'HEADER_MISMATCH'],
    ['another revision', call('echo'), { 'mcp-protocol-version': '2025-11-25' }, 'HEADER_MISMATCH'],
    ['a name that is no text', call(5), { 'mcp-name': '5' }, `modern ${modern}`],
  ])('%s', (_what, body, headers, expected) => {
    expect(classify(body, { ...modernHeaders, ...headers })).toBe(expected);
  });

  test.each(['mcp-protocol-version', 'mcp-method', 'mcp-name'])('%s must be there', (name) => {
    const headers: Record<string, string> = { ...modernHeaders };
    delete headers[name];
    expect(classify(call('echo'), headers)).toBe('HEADER_MISMATCH');
  });

  test.each([
    ['prompts/get', { name: 'p' }, 'p'],
    ['resources/read', { uri: 'a://b' }, 'a://b'],
    ['tasks/get', { taskId: 't' }, 't'],
  ])('%s mirrors its own member', (method, params, value) => {
    const body = { jsonrpc: '2.0', id: 1, method, params: { ...params, _meta: envelope } };
    const headers = { 'mcp-protocol-version': modern, 'mcp-method': method };
    expect(classify(body, { ...headers, 'mcp-name': value })).toBe(`modern ${modern}`);
    expect(classify(body, { ...headers, 'mcp-name': 'x' })).toBe('HEADER_MISMATCH');
    expect(classify(body, headers)).toBe('HEADER_MISMATCH');
  });
});

describe('the era follows from the shape of the message', () => {
  const plain = { jsonrpc: '2.0', id: 1, method: 'tools/list', params: {} };
  const initialize = (version: unknown, meta?: unknown) => ({
    jsonrpc: '2.0',
    id: 1,
    method: 'initialize',
    params: { protocolVersion: version, capabilities: {}, ...(meta === undefined ? {} : { _meta: meta }) },
  });
  test.each([
    ['no header, no envelope', plain, {}, 'legacy null'],
    ['a legacy header', plain, { 'mcp-protocol-version': '2025-06-18' }, 'legacy 2025-06-18'],
    ['a header nobody knows', plain, { 'mcp-protocol-version': '2024-10-07' }, 'UNSUPPORTED_PROTOCOL_REVISION'],
    ['a header that is no date', plain, { 'mcp-protocol-version': '1.0' }, 'UNSUPPORTED_PROTOCOL_REVISION'],
    ['a modern header without an envelope', plain, { 'mcp-protocol-version': modern }, 'INVALID_PARAMS'],
    ['initialize', initialize('2025-06-18'), {}, 'legacy 2025-06-18'],
    ['initialize for a revision nobody knows', initialize('2099-01-01'), {}, 'legacy 2025-11-25'],
    [
      'initialize with a modern header',
      initialize('2025-06-18'),
      { 'mcp-protocol-version': modern },
      'HEADER_MISMATCH',
    ],
    ['mirrored headers of a legacy message mean nothing', plain, { 'mcp-method': 'tools/call' }, 'legacy null'],
    [
      'an envelope of a revision to come',
      { ...plain, params: { _meta: { ...envelope, [protocolVersionKey]: '2099-01-01' } } },
      { 'mcp-protocol-version': '2099-01-01', 'mcp-method': 'tools/list' },
      'UNSUPPORTED_PROTOCOL_REVISION',
    ],
    [
      'an envelope that claims a legacy revision',
      { ...plain, params: { _meta: { ...envelope, [protocolVersionKey]: '2025-11-25' } } },
      { 'mcp-protocol-version': '2025-11-25', 'mcp-method': 'tools/list' },
      'UNSUPPORTED_PROTOCOL_REVISION',
    ],
    ['a response', { jsonrpc: '2.0', id: 1, result: {} }, {}, 'legacy null'],
    [
      'a response with a modern header',
      { jsonrpc: '2.0', id: 1, result: {} },
      { 'mcp-protocol-version': modern },
      'INVALID_REQUEST',
    ],
    ['a notification', { jsonrpc: '2.0', method: 'notifications/initialized' }, {}, 'legacy null'],
    ['a batch', [plain], {}, 'INVALID_REQUEST'],
  ])('%s', (_what, body, headers, expected) => {
    expect(classify(body, headers as Record<string, string>)).toBe(expected);
  });

  test.each([
    { [clientCapabilitiesKey]: {} },
    { [protocolVersionKey]: modern },
    { [protocolVersionKey]: 5, [clientCapabilitiesKey]: {} },
    { [protocolVersionKey]: modern, [clientCapabilitiesKey]: [] },
    { [protocolVersionKey]: modern, [clientCapabilitiesKey]: {}, [clientInfoKey]: 'me' },
  ])('an incomplete envelope is -32602: %j', (meta) => {
    expect(classify(call('echo', meta), modernHeaders)).toBe('INVALID_PARAMS');
  });

  test('a request without a body is legacy, and refused where it says it is modern', () => {
    expect(classifyBodiless(new Map())).toEqual({ era: 'legacy', protocolRevision: null });
    expect(() => classifyBodiless(new Map([['mcp-protocol-version', modern]]))).toThrow(AppError);
  });
});

/** What ours may say where the SDK's classifier says this. */
function expectedOf(outcome: ReturnType<typeof classifyInboundRequest>): string[] {
  if (outcome.kind === 'legacy') return ['legacy'];
  if (outcome.kind === 'reject') {
    const [code] = Object.entries(ERRORS).find(([, entry]) => entry.jsonRpc === outcome.code) ?? [];
    return [code ?? 'none'];
  }
  // It leaves to later steps what ours decides at once: unknown revisions and missing headers.
  const known = outcome.classification.revision === modern;
  return ['HEADER_MISMATCH', known ? `modern ${modern}` : 'UNSUPPORTED_PROTOCOL_REVISION'];
}

test('the verdict equals the SDK’s classifier', () => {
  const revisions = fc.constantFrom('2026-07-28', '2025-11-25', '2025-03-26');
  const meta = fc.record(
    {
      [protocolVersionKey]: fc.oneof(revisions, fc.constant(7)),
      [clientCapabilitiesKey]: fc.constantFrom({}, { roots: {} }, 'x'),
      [clientInfoKey]: fc.constantFrom({ name: 'c', version: '1' }, { name: 'c' }, 3),
    },
    { requiredKeys: [] },
  );
  const params = fc.record({ _meta: meta, name: fc.constant('echo') }, { requiredKeys: [] });
  const message = fc.record(
    {
      jsonrpc: fc.constant('2.0'),
      id: fc.constantFrom(1, 'a'),
      method: fc.constantFrom('tools/call', 'initialize', 'notifications/x'),
      params,
    },
    { requiredKeys: ['jsonrpc', 'method'] },
  );
  const headers = fc.record(
    {
      'mcp-protocol-version': revisions,
      'mcp-method': fc.constantFrom('tools/call', 'tools/list'),
      'mcp-name': fc.constant('echo'),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(message, headers, (body, given) => {
      const outcome = classifyInboundRequest({
        httpMethod: 'POST',
        body,
        ...(given['mcp-protocol-version'] === undefined
          ? {}
          : { protocolVersionHeader: given['mcp-protocol-version'] }),
        ...(given['mcp-method'] === undefined ? {} : { mcpMethodHeader: given['mcp-method'] }),
        ...(given['mcp-name'] === undefined ? {} : { mcpNameHeader: given['mcp-name'] }),
      });
      const ours = classify(body, given as Record<string, string>);
      expect(expectedOf(outcome)).toContain(ours.replace(/^legacy .*/, 'legacy'));
    }),
    { numRuns: 3000 },
  );
});
