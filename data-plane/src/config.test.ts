import { describe, expect, test } from 'vitest';
import { configHelp, parseConfig, redactedConfig } from './config.ts';

const good = {
  SALLYPORT_CONTROL_PLANE_URL: 'https://control.example.com',
  SALLYPORT_NODE_SECRET: 'a-secret-of-at-least-32-characters',
  REDIS_URL: 'redis://localhost',
};
function problemsOf(changes: Record<string, string>): readonly string[] {
  const parsed = parseConfig({ ...good, ...changes });
  return parsed.ok ? [] : parsed.problems;
}
function configOf(changes: Record<string, string> = {}) {
  const parsed = parseConfig({ ...good, ...changes });
  if (!parsed.ok) throw new Error(parsed.problems.join());
  return parsed.config;
}

describe('a node does not start', () => {
  const open = { SALLYPORT_LISTEN_HOST: '0.0.0.0', SALLYPORT_PUBLIC_HOSTS: 'mcp.example.com' };
  test.each([
    ['beyond loopback without TLS', open, /SALLYPORT_TLS_CERT_FILE/],
    [
      'beyond loopback without a name',
      { SALLYPORT_LISTEN_HOST: '::', SALLYPORT_TLS_TERMINATED_BY_PROXY: 'true' },
      /PUBLIC_HOSTS/,
    ],
    ['with half a certificate', { SALLYPORT_TLS_CERT_FILE: '/dev/null' }, /belong together/],
    ['with a certificate that is not there', { SALLYPORT_TLS_CERT_FILE: '/nowhere.pem' }, /does not exist/],
    ['with a short secret', { SALLYPORT_NODE_SECRET: 'short' }, /32 characters/],
    [
      'with a control plane in the clear',
      { SALLYPORT_CONTROL_PLANE_URL: 'http://control.example.com' },
      /https or wss/,
    ],
    ['without a queue', { REDIS_URL: '' }, /REDIS_URL or DATABASE_URL/],
    ['with a proxy by name', { SALLYPORT_TRUSTED_PROXIES: 'proxy.example' }, /CIDRs/],
    ['with a metadata address allowed', { SALLYPORT_EGRESS_ALLOW: '169.254.169.254/32:80' }, /SALLYPORT_EGRESS_ALLOW/],
    ['with a limit that is no number', { SALLYPORT_EXCHANGES_MAX: 'many' }, /SALLYPORT_EXCHANGES_MAX/],
  ])('%s', (_what, changes, problem) => {
    expect(problemsOf(changes).join('\n')).toMatch(problem);
  });

  test('and says everything that is wrong at once, without any value', () => {
    const parsed = parseConfig({ SALLYPORT_NODE_SECRET: 'hunter2', SALLYPORT_LISTEN_PORT: 'x' });
    const problems = parsed.ok ? [] : parsed.problems;
    expect(problems).toHaveLength(3);
    expect(problems.join()).not.toContain('hunter2');
  });
});

test('beyond loopback a declared proxy or a certificate is enough', () => {
  const { access } = configOf({
    SALLYPORT_LISTEN_HOST: '0.0.0.0',
    SALLYPORT_PUBLIC_HOSTS: 'MCP.example.com, other.example:8443',
    SALLYPORT_TLS_TERMINATED_BY_PROXY: 'true',
  });
  expect([...access.publicHosts]).toEqual(['mcp.example.com', 'other.example:8443']);
});

test('the control plane is named by any of its URLs', () => {
  const of = (url: string) => configOf({ SALLYPORT_CONTROL_PLANE_URL: url }).syncUrl;
  expect(of('https://control.example.com')).toBe('wss://control.example.com/sync');
  expect(of('wss://control.example.com/sync')).toBe('wss://control.example.com/sync');
  expect(of('http://127.0.0.1:4000/')).toBe('ws://127.0.0.1:4000/sync');
});

test('labels and loopback names are understood', () => {
  const config = configOf({ SALLYPORT_NODE_LABELS: 'zone=a, tier=edge' });
  expect(config.labels).toEqual({ zone: 'a', tier: 'edge' });
  expect([...config.access.publicHosts]).toContain('127.0.0.1');
});

test('what is logged holds no secret, and the help names every variable', () => {
  const config = configOf({ SALLYPORT_JOIN_TOKEN: 'spj_secret', REDIS_URL: 'redis://user:secret@host' });
  expect(JSON.stringify(redactedConfig(config))).not.toMatch(/spj_secret|user:secret|a-secret-of/);
  expect(configHelp()).toContain('SALLYPORT_DRAIN_TIMEOUT_MS (default 15000)');
});
