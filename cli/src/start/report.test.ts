import { expect, test } from 'vitest';
import { clientSnippet, formatReport, type ReportInput, shellLines } from './report.ts';

const input: ReportInput = {
  directory: '/home/ann/sallyport/.sallyport',
  entryUrl: 'http://127.0.0.1:7750',
  graphqlUrl: 'http://127.0.0.1:7751/graphql',
  adminToken: { secret: 'sp_admin', expiresAt: '2027-01-01T00:00:00.000Z' },
  clientKey: { secret: 'sp_client', expiresAt: '2027-02-03T00:00:00.000Z', replacesExpiring: false },
  login: { userName: 'Example user', code: 'spl_code' },
  servers: [
    {
      slug: 'everything',
      title: 'Everything',
      era: 'legacy',
      grantedTools: ['echo', 'get-sum'],
      toolCount: 18,
      example: { tool: 'echo', arguments: { message: "it's here" } },
    },
    {
      slug: 'clock',
      title: 'Clock',
      era: 'modern',
      grantedTools: ['time-now'],
      toolCount: 4,
      example: { tool: 'time-now', arguments: {} },
    },
  ],
};

test('the report names endpoints, key, admin token and GraphQL endpoint', () => {
  const report = formatReport(input);
  for (const text of [
    'http://127.0.0.1:7750/mcp/everything',
    'http://127.0.0.1:7750/mcp/clock',
    '2 of 18 tools granted (echo, get-sum)',
    'sp_client',
    'valid until 2027-02-03',
    'sp_admin',
    'spl_code',
    'http://127.0.0.1:7751/graphql',
    'Ctrl-C',
    'npx pnpm@12 sallyport reset',
  ]) {
    expect(report).toContain(text);
  }
  expect(report).not.toContain('successor');
});

test('a key that replaces an expiring one is called its successor', () => {
  expect(formatReport({ ...input, clientKey: { ...input.clientKey, replacesExpiring: true } })).toContain('successor');
});

test('the client snippet is JSON with a URL and a header per server', () => {
  expect(JSON.parse(clientSnippet(input))).toEqual({
    mcpServers: {
      everything: {
        type: 'http',
        url: 'http://127.0.0.1:7750/mcp/everything',
        headers: { Authorization: 'Bearer sp_client' },
      },
      clock: {
        type: 'http',
        url: 'http://127.0.0.1:7750/mcp/clock',
        headers: { Authorization: 'Bearer sp_client' },
      },
    },
  });
});

test('a quote in an argument stays one shell word', () => {
  const [everything] = input.servers;
  if (everything === undefined) throw new Error('no server');
  expect(shellLines(input.entryUrl, 'sp_client', everything).join('\n')).toContain(`"it'\\''s here"`);
});

test('shell lines are printed only for a tool that is still granted', () => {
  const servers = input.servers.map((server) => ({ ...server, grantedTools: [] }));
  const report = formatReport({ ...input, servers });
  expect(report).toContain('0 of 18 tools granted\n');
  expect(report).not.toContain('# Shell');
});
