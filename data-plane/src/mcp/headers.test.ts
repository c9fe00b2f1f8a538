import { describe, expect, test } from 'vitest';
import {
  accepts,
  forwardedHeaders,
  isEventStream,
  isJson,
  isTracestate,
  mustBeSingle,
  parseTraceparent,
} from './headers.ts';

const secrets: Record<string, string> = {
  authorization: 'Bearer SECRET-01',
  cookie: 'session=SECRET-02',
  'x-api-key': 'SECRET-03',
  'x-mcp-auth': 'SECRET-04',
  'proxy-authorization': 'Basic SECRET-05',
  'x-auth-token': 'SECRET-06',
  'mcp-session-id': 'SECRET-07',
  'x-forwarded-for': 'SECRET-08',
  'x-goog-iap-jwt-assertion': 'SECRET-09',
  'x-amzn-oidc-data': 'SECRET-10',
  'mcp-init-host': 'SECRET-11',
  'x-sallyport-internal': 'SECRET-12',
  forwarded: 'for=SECRET-13',
  connection: 'keep-alive, mcp-name',
  'transfer-encoding': 'chunked',
  te: 'trailers',
  upgrade: 'h2c',
  host: 'gateway.example',
  'content-length': '5',
  'accept-encoding': 'gzip',
};

describe('an upstream is sent what the protocol needs and nothing else [P01] [P04] [P05] [P16]', () => {
  test.each(['modern', 'legacy'] as const)('of a %s client', (era) => {
    const headers = new Map(
      Object.entries({
        ...secrets,
        'mcp-protocol-version': 'v',
        'mcp-method': 'm',
        'mcp-name': 'n',
        'mcp-param-x': 'p',
        'last-event-id': '9',
      }),
    );
    const pairs = (method: string) => {
      const flat = forwardedHeaders(headers, era, method);
      return Object.fromEntries(flat.flatMap((name, at) => (at % 2 === 0 ? [[name, flat[at + 1]]] : [])));
    };
    const always = { 'accept-encoding': 'identity', 'user-agent': 'sallyport', 'mcp-protocol-version': 'v' };
    const post = { ...always, 'content-type': 'application/json', accept: 'application/json, text/event-stream' };
    const mirrored = { 'mcp-method': 'm', 'mcp-name': 'n', 'mcp-param-x': 'p' };
    expect(pairs('POST')).toEqual(era === 'modern' ? { ...post, ...mirrored } : post);
    const get = { ...always, accept: 'text/event-stream' };
    expect(pairs('GET')).toEqual(era === 'modern' ? { ...get, ...mirrored } : get);
    expect(pairs('DELETE')).toEqual(era === 'modern' ? { ...always, ...mirrored } : always);
  });
});

test.each([
  [undefined, true],
  ['*/*', true],
  ['application/json, text/event-stream', true],
  ['text/event-stream;q=0.5,application/*', true],
  ['Application/JSON, Text/*', true],
  ['application/json', false],
  ['application/json, text/event-stream;q=0', false],
  ['text/html', false],
  ['', false],
])('Accept %j takes both kinds of answer: %s [P11]', (header, expected) => {
  expect(accepts(header, 'application/json') && accepts(header, 'text/event-stream')).toBe(expected);
});

test('content types are told by their name, whatever their parameters', () => {
  for (const type of ['application/json', 'Application/JSON; charset=utf-8', 'application/json;charset="UTF-8"']) {
    expect(isJson(type)).toBe(true);
  }
  for (const type of [
    undefined,
    '',
    'text/json',
    'application/jsonp',
    'application/json; charset=utf-16',
    'application/json, text/html',
  ]) {
    expect(isJson(type)).toBe(false);
  }
  expect(isEventStream('text/event-stream; charset=utf-8')).toBe(true);
  expect(isEventStream('text/event-streams')).toBe(false);
});

test('headers that are read must come once', () => {
  for (const name of ['host', 'origin', 'authorization', 'content-type', 'mcp-name', 'mcp-param-a', 'mcp-session-id']) {
    expect(mustBeSingle(name)).toBe(true);
  }
  expect(mustBeSingle('x-forwarded-for')).toBe(false);
});

test('a trace goes on only where its parent is valid', () => {
  const traceId = '0af7651916cd43dd8448eb211c80319c';
  expect(parseTraceparent(`00-${traceId}-b7ad6b7169203331-01`)).toEqual({ traceId, flags: '01' });
  for (const header of [
    undefined,
    '',
    `00-${'0'.repeat(32)}-b7ad6b7169203331-01`,
    `00-${traceId}-${'0'.repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-b7ad6b7169203331-01`,
    `ff-${traceId}-b7ad6b7169203331-01`,
    `00-${traceId}-b7ad6b7169203331-01-x`,
  ]) {
    expect(parseTraceparent(header)).toBeUndefined();
  }
});

test('what stands for the state of a trace and is none is told from one', () => {
  for (const header of [
    '',
    'congo=t61rcWkgMzE',
    'rojo=00f067aa0ba902b7, congo=t61rcWkgMzE,',
    'fw529a3039@dt=FfAAPQ;Hj x',
  ]) {
    expect([header, isTracestate(header)]).toEqual([header, true]);
  }
  const long = Array.from({ length: 33 }, (_, at) => `k${at}=v`).join(',');
  for (const header of [
    'secret',
    'Bearer secret',
    'Key=v',
    'k=',
    'k=a=b',
    'k=ü',
    'a b=c',
    long,
    `k=${'v'.repeat(511)}`,
  ]) {
    expect([header, isTracestate(header)]).toEqual([header, false]);
  }
});
