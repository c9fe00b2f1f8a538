/** What the tests of policies, webhooks and captures share. */
import {
  type ClosedRecord,
  type PolicyEntry,
  policyMatchDefaults,
  type RefusedRecord,
  type Verdict,
  type WebhookEntry,
} from '@sallyport/schema';
import { newWebhookKey } from '@sallyport/schema/platform';
import { waitFor } from '../kit/condition.ts';
import type { FakeUpstream } from '../kit/fake-upstream.ts';
import type { PipelineNode } from './pipeline-node.ts';

/** A policy that holds for all, and asks for nothing by itself. */
export function policyEntry(more: Partial<PolicyEntry> & Pick<PolicyEntry, 'id'>): PolicyEntry {
  return {
    mode: 'enforce',
    match: policyMatchDefaults,
    rules: [],
    inspectedLengthMax: 1_048_576,
    onTooLarge: 'block',
    ...more,
  };
}

/** A policy that asks the webhook `hook`. */
export function askingPolicy(more: Partial<PolicyEntry> = {}): PolicyEntry {
  return policyEntry({ id: 'asking', webhookIds: ['hook'], webhookBudgetMs: 20_000, ...more });
}

let version = 0;

/** Each with a breaker of its own. */
export function webhookEntry(more: Partial<WebhookEntry> & Pick<WebhookEntry, 'url' | 'deadlineMs'>): WebhookEntry {
  return {
    id: 'hook',
    version: ++version,
    mode: 'enforce',
    events: ['request', 'response'],
    failMode: 'closed',
    content: 'full',
    payloadBytesMax: 1_048_576,
    mutablePaths: [],
    algorithm: 'hmac',
    signingKeys: [{ secret: newWebhookKey('hmac'), notAfter: null }],
    ...more,
  };
}

/** The upstream answers every call with this result, in one body. */
export function answerWith(upstream: FakeUpstream, result: object, status = 200): void {
  upstream.intercept((request, response) => {
    const { id } = JSON.parse(request.body) as { id: unknown };
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id, result: { resultType: 'complete', ...result } }));
    return true;
  });
}

/** The upstream answers every call with these messages, an event each. */
export function streamWith(upstream: FakeUpstream, messages: readonly object[]): void {
  upstream.intercept((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(messages.map((message) => `data: ${JSON.stringify({ jsonrpc: '2.0', ...message })}\n\n`).join(''));
    return true;
  });
}

/** The record of the first exchange that has ended. */
export async function endOfExchange({ records }: PipelineNode): Promise<ClosedRecord | RefusedRecord> {
  return await waitFor('the end of the exchange', () =>
    records.find((record) => record.type === 'closed' || record.type === 'refused'),
  );
}

export async function verdictsOf(node: PipelineNode): Promise<readonly Verdict[]> {
  return (await endOfExchange(node)).verdicts ?? [];
}
