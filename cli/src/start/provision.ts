import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';
import { z } from 'zod';
import type { Ports } from './choose-ports.ts';
import { createGraphqlClient, type GraphqlClient } from './graphql-client.ts';
import { ensureClientKey, ensureOwnerKey, type Memory } from './issue-keys.ts';
import { issueLoginCode } from './login-code.ts';
import { registerExamples } from './register-examples.ts';
import type { ReportInput } from './report.ts';
import type { StoredKey } from './state-directory.ts';
import { nodeNames } from './topology.ts';

const joinTokenLifetimeMs = 365 * 86_400_000;
const joinTokenRenewalMs = 30 * 86_400_000;
const convergenceTimeoutMs = 30_000;
const pollIntervalMs = 50;

export interface Owner {
  readonly client: GraphqlClient;
  readonly key: StoredKey;
}

/** The owner, made with the bootstrap token when there is none. */
export async function prepareOwner(
  graphqlUrl: string,
  bootstrapToken: string | undefined,
  memory: Memory,
  clock: Clock,
): Promise<Owner> {
  const key = await ensureOwnerKey(graphqlUrl, bootstrapToken, memory, clock);
  return { client: createGraphqlClient(graphqlUrl, key.secret), key };
}

/** The token by which nodes join, when it is good for some time yet. */
export function knownJoinToken(memory: Memory, clock: Clock): string | undefined {
  const { joinToken } = memory.state();
  const leftMs = joinToken === undefined ? 0 : Date.parse(joinToken.expiresAt) - clock.now();
  return leftMs > joinTokenRenewalMs ? joinToken?.secret : undefined;
}

export async function ensureJoinToken({ client }: Owner, memory: Memory, clock: Clock): Promise<string> {
  const known = knownJoinToken(memory, clock);
  if (known !== undefined) return known;
  const expiresAt = new Date(clock.now() + joinTokenLifetimeMs).toISOString();
  const Issued = z.object({ joinToken: z.object({ id: z.string() }), secret: z.string() });
  const { createJoinToken } = await client.ask(
    `mutation ($input: CreateJoinTokenInput!) { createJoinToken(input: $input) { joinToken { id } secret } }`,
    { input: { name: 'start', expiresAt } },
    z.object({ createJoinToken: Issued }),
  );
  memory.save({ joinToken: { id: createJoinToken.joinToken.id, secret: createJoinToken.secret, expiresAt } });
  return createJoinToken.secret;
}

/** Everything a newcomer is shown, made through the public API as an admin would; what is there already is used. */
export async function provision(
  owner: Owner,
  ports: Ports,
  memory: Memory,
  clock: Clock,
): Promise<Pick<ReportInput, 'adminToken' | 'clientKey' | 'login' | 'servers'>> {
  const { groupId, key } = await ensureClientKey(owner.client, memory, clock);
  const servers = await registerExamples(owner.client, groupId, ports, memory, clock);
  const login = await issueLoginCode(owner.client, groupId);
  await converged(owner.client, clock);
  return { adminToken: owner.key, clientKey: key, login, servers };
}

/** Waits until every node serves the newest configuration, so that what is printed works when it is read. */
async function converged(client: GraphqlClient, clock: Clock): Promise<void> {
  const deadline = clock.monotonic() + convergenceTimeoutMs;
  const Status = z.object({ pending: z.boolean(), nodesLive: z.number(), summary: z.string() });
  for (;;) {
    const { configStatus } = await client.ask(
      `query { configStatus { pending nodesLive summary } }`,
      {},
      z.object({ configStatus: Status }),
    );
    if (!configStatus.pending && configStatus.nodesLive >= nodeNames.length) return;
    if (clock.monotonic() > deadline)
      throw new Error(`The nodes did not take the configuration: ${configStatus.summary}`);
    await wait(pollIntervalMs);
  }
}
