import { describe, expect, test } from 'vitest';
import { checkOrigin, preflightHeaders } from './origin.ts';

const rules = {
  publicHosts: new Set(['mcp.example.com', '127.0.0.1', '[::1]', 'pinned.example:8443']),
  allowedOrigins: new Set(['https://app.example']),
};
function passes(host: string | undefined, origin?: string): boolean {
  const headers = new Map<string, string>();
  if (host !== undefined) headers.set('host', host);
  if (origin !== undefined) headers.set('origin', origin);
  try {
    checkOrigin(rules, headers);
    return true;
  } catch {
    return false;
  }
}

describe('only known names and pages reach the node [P19]', () => {
  test.each(['mcp.example.com', 'MCP.example.com:443', '127.0.0.1:8080', '[::1]:1', 'pinned.example:8443'])(
    'Host %s',
    (host) => {
      expect(passes(host)).toBe(true);
    },
  );
  test.each([
    undefined,
    '',
    'evil.example',
    'mcp.example.com.evil.example',
    'evil.example:mcp.example.com',
    'mcp.example.com@evil.example',
    'mcp.example.com, evil.example',
    'mcp.example.com:80:80',
    'pinned.example',
    'pinned.example:1',
    'mcp.example.com/path',
    '0x7f000001',
    '127.0.0.1.',
  ])('not Host %j', (host) => {
    expect(passes(host)).toBe(false);
  });
  test.each([undefined, 'https://app.example', 'http://127.0.0.1:3000', 'https://mcp.example.com'])(
    'Origin %j',
    (origin) => {
      expect(passes('mcp.example.com', origin)).toBe(true);
    },
  );
  test.each([
    'null',
    '',
    'https://evil.example',
    'http://app.example',
    'https://app.example:8443',
    'https://app.example.evil.example',
    'https://app.example, https://evil.example',
    'https://mcp.example.com@evil.example',
    'file://mcp.example.com',
    'https://mcp.example.com/path',
  ])('not Origin %j', (origin) => {
    expect(passes('mcp.example.com', origin)).toBe(false);
  });
});

test('a preflight names the mirrored parameters that were asked for, and nothing made up [P18]', () => {
  const headers = preflightHeaders(
    'https://app.example',
    'Authorization, Mcp-Param-Region, X-Evil, mcp-param-é, Mcp-Param-',
  );
  const allowed = headers[headers.indexOf('access-control-allow-headers') + 1] ?? '';
  for (const name of [
    'Authorization',
    'Mcp-Method',
    'Mcp-Name',
    'MCP-Protocol-Version',
    'Mcp-Session-Id',
    'Last-Event-ID',
  ]) {
    expect(allowed).toContain(name);
  }
  expect(allowed).toContain('Mcp-Param-Region');
  expect(allowed).not.toMatch(/Evil|é|Mcp-Param-(,|$)/);
  expect(headers[headers.indexOf('access-control-expose-headers') + 1]).toContain('Mcp-Session-Id');
});
