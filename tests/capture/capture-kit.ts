import { randomSecret } from '@sallyport/schema/platform';
import { createGraphqlClient, type GraphqlClient } from '@sallyport/cli';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import type { Harness } from '../kit/harness.ts';

export const identified = z.object({ id: z.string() });
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

export interface Actor {
  readonly principalId: string;
  readonly api: GraphqlClient;
}

/**
 * A service account with one role, and its key for the API. The key comes first: nobody but an auditor makes one for an
 * auditor.
 */
export async function actorWith(
  { administrator, controlPlane }: Pick<Harness, 'administrator' | 'controlPlane'>,
  role: string,
): Promise<Actor> {
  const account = { name: `the ${role}`, expiresAt: inDays(1) };
  const { id } = await administrator.mutate('createServiceAccount', account, 'id', identified);
  const input = { principalId: id, name: 'key', scopes: ['API'], expiresAt: inDays(1) };
  const issued = await administrator.mutate('createApiKey', input, 'secret', z.object({ secret: z.string() }));
  await administrator.mutate('assignRole', { principalId: id, role }, 'id', identified);
  return { principalId: id, api: createGraphqlClient(controlPlane.graphqlUrl ?? '', issued.secret) };
}

/** A policy that only captures, in force on every node. */
export async function capturing(
  { administrator }: Pick<Harness, 'administrator'>,
  input: Readonly<Record<string, unknown>> = {},
): Promise<string> {
  const capture = { directions: ['REQUEST', 'RESPONSE'] };
  const made = { name: `capture ${randomSecret('c_').slice(0, 8)}`, rules: [], mode: 'ENFORCE', capture, ...input };
  const { id } = await administrator.mutate('createPolicy', made, 'id', identified);
  await administrator.converged();
  return id;
}

const eventPayload = z.object({
  direction: z.enum(['REQUEST', 'RESPONSE']),
  policyId: z.string(),
  state: z.string(),
  omission: z.string().nullable(),
  messages: z.number().nullable(),
  redactions: z.number().nullable(),
  expiresAt: z.string().nullable(),
});
const event = z.object({ id: z.string(), payloads: z.array(eventPayload) });

/** Exchanges of a tool, the newest first, once all of them have their payloads in one of these states. */
export function eventsWith(
  api: GraphqlClient,
  {
    count,
    states,
    serverId,
  }: { readonly count: number; readonly states: readonly string[]; readonly serverId: string },
): Promise<readonly z.infer<typeof event>[]> {
  const document = `query ($serverId: ID!) { auditEvents(first: 50, kind: EXCHANGE, serverId: $serverId, method: "tools/call") {
    edges { node { id payloads { direction policyId state omission messages redactions expiresAt } } } } }`;
  const answer = z.object({ auditEvents: z.object({ edges: z.array(z.object({ node: event })) }) });
  return waitFor(`${count} events with payloads that are ${states.join(' or ')}`, async () => {
    const { auditEvents } = await api.ask(document, { serverId }, answer);
    const found = auditEvents.edges.map(({ node }) => node).filter(({ payloads }) => payloads.length > 0);
    const isSettled = found.every(({ payloads }) => payloads.every(({ state }) => states.includes(state)));
    return found.length >= count && isSettled ? found : undefined;
  });
}

const content = z.object({
  messages: z.array(z.string()),
  hasNextPage: z.boolean(),
  endCursor: z.string().nullable(),
});

export async function readPayload(
  api: GraphqlClient,
  id: string,
  direction: 'REQUEST' | 'RESPONSE',
  more: Readonly<Record<string, unknown>> = {},
): Promise<z.infer<typeof content>> {
  const document = `query ($id: ID!, $direction: PolicyDirection!, $purpose: String!, $first: Int, $after: String) {
    readPayload(id: $id, direction: $direction, purpose: $purpose, first: $first, after: $after) {
      messages hasNextPage endCursor payload { eventId state } } }`;
  const variables = { id, direction, purpose: 'case 7', ...more };
  return (await api.ask(document, variables, z.object({ readPayload: content }))).readPayload;
}
