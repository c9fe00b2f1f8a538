import { apiRoutes } from '@sallyport/schema';
import { isRequiredArgument } from 'graphql';
import { z } from 'zod';
import { eventsWith, readPayload } from '../capture/capture-kit.ts';
import { modern, send } from '../data-plane/requests.ts';
import { waitFor } from '../kit/condition.ts';
import { askGraphql } from '../kit/control-plane.ts';
import { dump } from '../kit/postgres.ts';
import { apiSchema, documentOf, fieldsOf } from '../kit/whole-schema.ts';
import { filesUnder } from './credential-kit.ts';
import type { Topology } from './leak-topology.ts';

/** Looks at all channels that have to be asked for what they show. */
export async function gather(t: Topology): Promise<void> {
  const { harness, watch } = t;
  const { graphqlUrl = '', operationsUrl } = harness.controlPlane;
  await gatherEvents(t);
  const upstreams = [...t.upstreams, t.elsewhere].flatMap(({ requests }) => requests);
  for (const { path, rawHeaders, headers, body } of upstreams) {
    watch.add('requests to upstreams', path, ...rawHeaders, body);
    for (const name of ['traceparent', 'tracestate', 'baggage']) {
      if (headers[name] !== undefined) watch.add('context of traces', name, String(headers[name]));
    }
  }
  for (const { path, rawHeaders, body } of t.old.requests) {
    watch.add('requests to upstreams of HTTP+SSE', path, ...rawHeaders, body);
  }
  for (const { path, query: asked, rawHeaders, form } of t.as.requests) {
    watch.add('requests to authorization servers', path, asked, ...rawHeaders, form.toString());
  }
  for (const { target, rawHeaders } of t.idp.requests) {
    watch.add('requests to the identity provider', target, ...rawHeaders);
  }
  watch.add('requests to the identity provider', JSON.stringify(t.idp.assertionRequests));
  for (const [channel, { deliveries }] of [
    ['webhooks about messages', t.asked],
    ['webhooks about audit events', t.told],
  ] as const) {
    for (const { headers, body } of deliveries) watch.add(channel, JSON.stringify(headers), body);
  }
  for (const message of [...t.sync.passed.up, ...t.sync.passed.down]) {
    watch.add('between nodes and the control plane', JSON.stringify(message));
  }
  for (const [name, url] of [
    ['control-plane', operationsUrl],
    ['node-1', harness.nodes[0]?.operationsUrl],
    ['node-2', harness.nodes[1]?.operationsUrl],
  ] as const) {
    watch.add(`metrics of ${name}`, await (await fetch(`${url}/metrics`)).text());
  }
  watch.add('files of nodes', ...harness.dataDirectories.flatMap(filesUnder));
  watch.add('database', await dump(harness.databaseUrl));
  const [hourMs, now] = [3_600_000, Date.now()];
  const range = { from: new Date(now - hourMs).toISOString(), to: new Date(now + hourMs).toISOString() };
  const exported = new URL(`${apiRoutes.auditExport.path}?${new URLSearchParams(range).toString()}`, graphqlUrl);
  const authorization = `Bearer ${harness.ownerKey}`;
  watch.add('audit export', await (await fetch(exported, { headers: { authorization } })).text());
  for (const field of fieldsOf(apiSchema.getQueryType()).filter(({ args }) => !args.some(isRequiredArgument))) {
    const answer = await askGraphql(graphqlUrl, documentOf(field, undefined), {}, harness.ownerKey);
    watch.add('answers of the control plane', JSON.stringify(answer));
  }
}

const eventPage = z.object({
  answer: z.object({
    edges: z.array(z.object({ node: z.looseObject({ id: z.string(), traceId: z.string().nullable() }) })),
    pageInfo: z.object({ hasNextPage: z.boolean(), endCursor: z.string().nullable() }),
  }),
});
const eventsAtOnce = 25;
/** Of a server, whose messages are looked at. */
const eventsRead = 5;

/** The audit trail, once all that happened is in it, and the messages that were kept. */
async function gatherEvents({ harness, auditor, watch, told, ada, serverIds }: Topology): Promise<void> {
  const last = harness.nodes.map((_node, at) => `${at + 1}`.repeat(32));
  for (const [at, { url }] of harness.nodes.entries()) {
    const headers = { authorization: `Bearer ${ada.key}`, traceparent: `00-${last[at]}-b7ad6b7169203331-01` };
    const ping = modern('tools/list');
    await send(`${url}/mcp/own`, { ...ping, headers: { ...ping.headers, ...headers } });
  }
  const field = fieldsOf(apiSchema.getQueryType()).find(({ name }) => name === 'auditEvents');
  if (field === undefined) throw new Error('there is no audit trail');
  const page = async (after: string | null) =>
    (
      await auditor.api.ask(
        documentOf(field, after === null ? undefined : `after: "${after}"`, eventsAtOnce),
        {},
        eventPage,
      )
    ).answer;
  const areIn = (text: string): boolean => last.every((trace) => text.includes(trace));
  await waitFor('the last calls are in the audit trail', async () => areIn(JSON.stringify(await page(null))));
  await waitFor('the last calls are delivered', () => areIn(told.deliveries.map(({ body }) => body).join()));
  let after: string | null = null;
  do {
    const { edges, pageInfo } = await page(after);
    watch.add('audit events of the API', JSON.stringify(edges));
    after = pageInfo.hasNextPage ? pageInfo.endCursor : null;
  } while (after !== null);
  for (const slug of ['own', 'old', 'modern']) {
    const serverId = serverIds.get(slug) ?? '';
    const events = await eventsWith(auditor.api, { count: 1, states: ['STORED'], serverId });
    for (const { id, payloads } of events.slice(0, eventsRead)) {
      for (const { direction } of payloads) {
        const { messages } = await readPayload(auditor.api, id, direction);
        watch.add('captured messages', ...messages);
      }
    }
  }
}
