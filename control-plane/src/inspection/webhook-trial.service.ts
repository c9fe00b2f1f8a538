import {
  AppError,
  eventText,
  sha256,
  type WebhookEvent,
  type WebhookFailure,
  type WebhookVerdict,
} from '@sallyport/schema';
import { uuidv7, type WebhookSender } from '@sallyport/schema/platform';
import type { Context } from '../context.ts';
import type { FleetVault } from '../fleet/fleet-keys.ts';
import { assertRevision } from '../database/mutation.ts';
import { compileWebhookRow, signingKeyOpener } from './webhook-entry.ts';
import type { WebhookService } from './webhook.service.ts';

const samples = {
  request: { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'sample', arguments: { text: 'a sample' } } },
  response: { jsonrpc: '2.0', id: 1, result: { content: [{ type: 'text', text: 'a sample' }] } },
  definition: { name: 'sample', description: 'A sample.', inputSchema: { type: 'object' } },
  auditBatch: { events: [] },
} as const satisfies Record<WebhookEvent, object>;

const methods = { request: 'tools/call', response: 'tools/call', definition: 'tools/list' } as const;

export interface TestWebhook {
  readonly id: string;
  readonly dryRun?: boolean | null | undefined;
  readonly expectedRevision?: number | null | undefined;
  readonly event?: WebhookEvent | null | undefined;
}

/** What came of a sample; nothing of it reaches a client, and no breaker counts it. */
export interface WebhookTrial {
  readonly event: WebhookEvent;
  readonly sent: string;
  readonly failure: WebhookFailure | null;
  readonly status: number | null;
  readonly decision: WebhookVerdict['decision'] | null;
  readonly reasonCode: string | null;
  readonly durationMs: number;
}

/** Sends samples to webhooks, as a node would and in its form. */
export class WebhookTrialService {
  private readonly webhooks: WebhookService;
  private readonly vault: Pick<FleetVault, 'open'>;
  private readonly newSender: () => WebhookSender;

  constructor(webhooks: WebhookService, vault: Pick<FleetVault, 'open'>, newSender: () => WebhookSender) {
    this.webhooks = webhooks;
    this.vault = vault;
    this.newSender = newSender;
  }

  /** Whatever its mode: to be tried before it is in force. */
  async test(ctx: Context, input: TestWebhook): Promise<WebhookTrial> {
    ctx.authorize('policy:write');
    const row = await this.webhooks.get(ctx, input.id);
    assertRevision(row, input.expectedRevision);
    const { entry } = compileWebhookRow({ ...row, mode: 'enforce' }, signingKeyOpener(this.vault));
    if (entry === undefined)
      throw new AppError('CONFIG_INVALID', { internal: `webhook ${row.id} cannot be published` });
    const kind = input.event ?? entry.events[0] ?? 'request';
    const at = ctx.clock.now();
    const id = `msg_${uuidv7(at)}`;
    const message = JSON.stringify(samples[kind]);
    const digest = `sha-256:${sha256(message)}`;
    const event = {
      id,
      digest,
      at,
      deadlineMs: entry.deadlineMs,
      context: { mode: 'shadow', isSample: true },
      message,
    };
    const sent = eventText({ ...event, kind, method: null });
    const nothing = { event: kind, sent, failure: null, status: null, decision: null, reasonCode: null, durationMs: 0 };
    if (input.dryRun === true) return nothing;
    await this.webhooks.noteTrial(ctx, row, kind);
    const sender = this.newSender();
    // Batches of audit events are taken, not judged.
    if (kind === 'auditBatch') return { ...nothing, ...(await sender.deliver(entry, { id, body: Buffer.from(sent) })) };
    const { verdict, ...answer } = await sender.ask(entry, { ...event, kind, method: methods[kind] });
    return { ...nothing, ...answer, decision: verdict?.decision ?? null, reasonCode: verdict?.reasonCode ?? null };
  }
}
