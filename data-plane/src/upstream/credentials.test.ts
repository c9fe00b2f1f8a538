import type { CredentialNeed, LentCredential, PrincipalRecord } from '@sallyport/schema';
import { expect, test } from 'vitest';
import type { ServerRuntime } from '../runtime/runtime.ts';
import { UpstreamCredentials } from './credentials.ts';

const server = {
  document: { id: 'server', credential: { mode: 'userOAuth', revision: 1 } },
  upstream: new URL('https://mcp.example/mcp'),
} as ServerRuntime;
const ada = { id: 'ada', epoch: 1 } as PrincipalRecord;
const lent: LentCredential = {
  id: 'account',
  serverId: 'server',
  principalId: 'ada',
  issuer: 'https://login.example',
  resource: 'https://mcp.example/mcp',
  revision: 1,
  origin: 'https://mcp.example',
  headers: [['authorization', 'Bearer one']],
  expiresAt: 3_600_000,
  renewable: true,
};

test('a token that lacks scopes for one request goes on being that of the others of its user', async () => {
  const needs: CredentialNeed[] = [];
  const credentials = new UpstreamCredentials({
    lend: (need) => {
      needs.push(need);
      return Promise.resolve(
        need.refused === null
          ? ({ ok: true, credential: lent } as const)
          : ({ ok: false, problem: 'CONNECTION_NEEDED', connectUrl: null } as const),
      );
    },
    now: () => 0,
    runtime: () => undefined,
  });
  const sent = await credentials.forCall(server, ada);
  const challenge = 'Bearer error="insufficient_scope", scope="more"';
  const refused = credentials.refused(server, ada, sent, { status: 403, challenge });
  expect(credentials.forCall(server, ada)).toBe(sent);
  await expect(refused).rejects.toMatchObject({ code: 'CONNECTION_NEEDED' });
  expect(credentials.forCall(server, ada)).toBe(sent);
  expect(needs).toHaveLength(2);
  // One that is not accepted at all is nobody's any longer.
  const gone = credentials.refused(server, ada, sent, { status: 401, challenge: null });
  await expect(gone).rejects.toMatchObject({ code: 'CONNECTION_NEEDED' });
  expect(credentials.size).toBe(0);
  credentials.close();
});
