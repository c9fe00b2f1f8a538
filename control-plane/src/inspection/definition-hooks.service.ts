import {
  type CompiledPolicy,
  compilePolicy,
  type DefinitionKind,
  findInTexts,
  type InspectionEvent,
  isAboutDefinition,
  mayFailOpen,
  redactMessage,
  type WebhookEntry,
  type WebhookFailure,
} from '@sallyport/schema';
import { uuidv7, type WebhookSender } from '@sallyport/schema/platform';
import { and, arrayContains, asc, eq, inArray, isNull, ne, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import type { FleetVault } from '../fleet/fleet-keys.ts';
import {
  type DefinitionVerdictRow,
  definitionVerdicts,
  policies,
  type WebhookRow,
  webhooks,
} from './inspection.tables.ts';
import { compilePolicyRow } from './policy-entry.ts';
import { compileWebhookRow, signingKeyOpener } from './webhook-entry.ts';

/** Definitions that are asked about at once. */
const concurrentMax = 8;
/** For one look at a server; what is not asked by then waits for the next. */
const budgetMs = 20_000;
/** A webhook that gave no verdict is not asked again before. */
const retryMs = 60_000;
/** Verdicts that an audit event names. */
const auditedMax = 100;
const rowsPerStatement = 500;

/** By which method definitions of a kind come to clients. */
const listedBy = {
  tool: 'tools/list',
  prompt: 'prompts/list',
  resource: 'resources/list',
  resourceTemplate: 'resources/templates/list',
  instructions: 'server/discover',
  view: 'resources/read',
  serverInfo: 'server/discover',
} as const satisfies Record<DefinitionKind, string>;

/** Of which server a definition is. */
export interface AskedServer {
  readonly id: string;
  readonly slug: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface DefinitionWording {
  readonly kind: DefinitionKind;
  readonly name: string;
  readonly digest: string;
}

export interface AskedDefinition extends DefinitionWording {
  readonly raw: Readonly<Record<string, unknown>>;
}

/** What a webhook said of a wording, as it is kept. */
export type KeptVerdict = DefinitionVerdictRow;

/** What one webhook said of one wording, or why it said nothing. */
export type DefinitionVerdict = Omit<KeptVerdict, 'serverId'> & {
  readonly name: string;
  readonly mode: 'enforce' | 'shadow';
};

/** `denied`: some webhook in force said no. `unanswered`: some has not said yes. `clear`: none is in the way. */
export interface WebhookStanding {
  readonly state: 'clear' | 'unanswered' | 'denied';
  /** For whoever wants to approve it; empty where it is clear. */
  readonly problem: string;
}
export type StandingOf = (wording: DefinitionWording) => WebhookStanding;

interface Hook {
  readonly row: WebhookRow;
  readonly policies: readonly { readonly policy: CompiledPolicy; readonly acts: boolean }[];
}

export interface DefinitionHookOptions {
  readonly database: Database;
  readonly vault: Pick<FleetVault, 'open'>;
  readonly sender: Pick<WebhookSender, 'ask'>;
  readonly onAsked: (webhookId: string, durationMs: number, failure: WebhookFailure | null) => void;
  readonly now: () => number;
  readonly monotonic: () => number;
}

const clear: WebhookStanding = { state: 'clear', problem: '' };

/** Asks webhooks about definitions, once about each wording, and says what stands in the way of approving one. */
export class DefinitionHookService {
  private readonly options: DefinitionHookOptions;

  constructor(options: DefinitionHookOptions) {
    this.options = options;
  }

  /**
   * Asks every webhook that policies name for a definition and that has not judged the wording in its present revision.
   * Never rejects for what a receiver does. Nothing is stored yet.
   * @param again also those that have judged it
   */
  async ask(server: AskedServer, asked: readonly AskedDefinition[], again = false): Promise<DefinitionVerdict[]> {
    const { db } = this.options.database;
    const hooks = asked.length === 0 ? [] : await hooksOf(db);
    if (hooks.length === 0) return [];
    const known = again ? new Map() : await verdictsOf(db, server.id, hooks);
    const retryBefore = this.options.now() - retryMs;
    const isOpen = (hook: Hook, definition: AskedDefinition): boolean => {
      const verdict = known.get(keyOf(definition, hook.row.id));
      if (verdict === undefined || verdict.webhookRevision !== hook.row.revision) return true;
      return verdict.decision === 'failure' && verdict.askedAt.getTime() <= retryBefore;
    };
    const open = hooks.flatMap((hook) => {
      const concerned = asked.filter((one) => modeOf(hook, server, one) !== undefined && isOpen(hook, one));
      if (concerned.length === 0) return [];
      const { entry } = compileWebhookRow(hook.row, signingKeyOpener(this.options.vault));
      return concerned.map((definition) => ({ hook, entry, definition }));
    });
    const until = this.options.monotonic() + budgetMs;
    const verdicts: DefinitionVerdict[] = [];
    const next = open.values();
    const work = async (): Promise<void> => {
      for (const { hook, entry, definition } of next) {
        if (this.options.monotonic() >= until) return;
        verdicts.push(await this.askOne(server, hook, entry, definition));
      }
    };
    await Promise.all(Array.from({ length: concurrentMax }, work));
    return verdicts;
  }

  /** Keeps what was said of wordings that are in the catalog, and has the audit trail tell. An older answer gives way. */
  async store(tx: Transaction, ctx: Context, serverId: string, verdicts: readonly DefinitionVerdict[]): Promise<void> {
    for (let from = 0; from < verdicts.length; from += rowsPerStatement) {
      const rows = verdicts.slice(from, from + rowsPerStatement);
      await tx.execute(sql`
        insert into definition_verdicts as v
        select ${serverId}::uuid, b.digest, x.kind, x."webhookId", x."webhookRevision", x.decision, x.reason,
          x."durationMs", x."askedAt"
        from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(digest text, kind text, "webhookId" uuid,
          "webhookRevision" integer, decision text, reason text, "durationMs" double precision, "askedAt" timestamptz)
        join definition_bodies b on b.server_id = ${serverId}::uuid and b.digest = x.digest
        on conflict (server_id, digest, kind, webhook_id) do update set webhook_revision = excluded.webhook_revision,
          decision = excluded.decision, reason = excluded.reason, duration_ms = excluded.duration_ms,
          asked_at = excluded.asked_at
        where v.asked_at <= excluded.asked_at`);
    }
    if (verdicts.length === 0) return;
    const after = { count: verdicts.length, verdicts: verdicts.slice(0, auditedMax) };
    await recordMutation(tx, ctx, {
      action: 'definition.askWebhooks',
      object: { kind: 'server', id: serverId },
      after,
    });
  }

  /** What webhooks in force say of wordings of a server: nothing but yes from each of them lets one be approved. */
  async standing(reader: Reader, server: AskedServer): Promise<StandingOf> {
    const hooks = await hooksOf(reader);
    if (hooks.length === 0) return () => clear;
    const verdicts = await verdictsOf(reader, server.id, hooks);
    return (wording) => {
      const acting = hooks.filter((hook) => modeOf(hook, server, wording) === 'enforce');
      const standings = acting.map(({ row }) => standingOf(row, verdicts.get(keyOf(wording, row.id)), wording));
      return (
        standings.find(({ state }) => state === 'denied') ??
        standings.find(({ state }) => state === 'unanswered') ??
        clear
      );
    };
  }

  /** Everything that is kept of these wordings, whatever has become of the webhooks; the oldest first. */
  async stored(
    reader: Reader,
    wordings: readonly { readonly serverId: string; readonly digest: string }[],
  ): Promise<DefinitionVerdictRow[]> {
    if (wordings.length === 0) return [];
    const serverIds = [...new Set(wordings.map(({ serverId }) => serverId))];
    const digests = [...new Set(wordings.map(({ digest }) => digest))];
    return reader
      .select()
      .from(definitionVerdicts)
      .where(and(inArray(definitionVerdicts.serverId, serverIds), inArray(definitionVerdicts.digest, digests)))
      .orderBy(asc(definitionVerdicts.askedAt), asc(definitionVerdicts.webhookId));
  }

  private async askOne(
    server: AskedServer,
    hook: Hook,
    entry: WebhookEntry | undefined,
    definition: AskedDefinition,
  ): Promise<DefinitionVerdict> {
    const { now, monotonic, onAsked } = this.options;
    const startedAt = monotonic();
    const mode = modeOf(hook, server, definition) ?? 'shadow';
    const askedAt = new Date(now());
    const said = await this.verdict(server, mode, entry, definition);
    const durationMs = monotonic() - startedAt;
    const failure = typeof said === 'string' ? said : null;
    onAsked(hook.row.id, durationMs, failure);
    const { kind, name, digest } = definition;
    const decision = typeof said === 'string' ? ('failure' as const) : said.decision;
    const reason = typeof said === 'string' ? said : said.reason;
    const { id: webhookId, revision: webhookRevision } = hook.row;
    return { kind, name, digest, webhookId, webhookRevision, mode, decision, reason, durationMs, askedAt };
  }

  private async verdict(
    server: AskedServer,
    mode: 'enforce' | 'shadow',
    entry: WebhookEntry | undefined,
    { kind, name, digest, raw }: AskedDefinition,
  ): Promise<WebhookFailure | { readonly decision: 'allow' | 'deny'; readonly reason: string }> {
    if (entry === undefined) return 'unknownWebhook';
    const text = JSON.stringify(raw);
    const sizeBytes = Buffer.byteLength(text);
    if (sizeBytes > entry.payloadBytesMax) return 'payloadTooLarge';
    const message = this.shown(entry, text);
    if (message === null && entry.content !== 'digest') return 'notInspectable';
    const at = this.options.now();
    const event: InspectionEvent = {
      kind: 'definition',
      id: `msg_${uuidv7(at)}`,
      digest,
      at,
      deadlineMs: entry.deadlineMs,
      context: {
        mode,
        target: { serverId: server.id, slug: server.slug, labels: server.labels, kind, name },
        event: listedBy[kind],
        sizeBytes,
        content: entry.content,
      },
      method: listedBy[kind],
      message,
    };
    const { failure, verdict } = await this.options.sender.ask(entry, event);
    if (failure !== null) return failure;
    // What is approved is what the server sends: there is nothing to change about it.
    if (verdict.decision === 'modify') return 'patchForbidden';
    return { decision: verdict.decision, reason: verdict.reasonCode ?? '' };
  }

  private shown({ content }: WebhookEntry, text: string): string | null {
    if (content === 'digest') return null;
    if (content === 'full') return text;
    const shown = redactMessage(text, (texts) => findInTexts(texts, this.options.monotonic));
    return shown instanceof Promise ? null : shown;
  }
}

/** Webhooks that some policy has asked about definitions, with those policies. */
async function hooksOf(reader: Reader): Promise<Hook[]> {
  const rows = await reader
    .select()
    .from(webhooks)
    .where(and(isNull(webhooks.deletedAt), ne(webhooks.mode, 'off'), arrayContains(webhooks.events, ['definition'])))
    .orderBy(asc(webhooks.id));
  if (rows.length === 0) return [];
  const named = await reader
    .select()
    .from(policies)
    .where(and(isNull(policies.deletedAt), ne(policies.mode, 'off'), sql`cardinality(${policies.webhookIds}) > 0`));
  const compiled = named.flatMap((row) => {
    const entry = compilePolicyRow(row)?.entry;
    // One that cannot be published is about everything it may have been about.
    return entry === undefined ? [] : [{ row, policy: compilePolicy(entry), acts: row.mode === 'enforce' }];
  });
  return rows.flatMap((row) => {
    const own = compiled.filter(({ row: { webhookIds } }) => webhookIds.includes(row.id));
    return own.length === 0 ? [] : [{ row, policies: own }];
  });
}

/** Undefined where the webhook is not asked about it. */
function modeOf(
  { row, policies: own }: Hook,
  server: AskedServer,
  wording: Pick<DefinitionWording, 'kind' | 'name'>,
): 'enforce' | 'shadow' | undefined {
  const about = own.filter(({ policy }) => isAboutDefinition(policy, server, wording));
  if (about.length === 0) return undefined;
  return row.mode === 'enforce' && about.some(({ acts }) => acts) ? 'enforce' : 'shadow';
}

async function verdictsOf(
  reader: Reader,
  serverId: string,
  hooks: readonly Hook[],
): Promise<ReadonlyMap<string, DefinitionVerdictRow>> {
  const ids = hooks.map(({ row }) => row.id);
  const rows = await reader
    .select()
    .from(definitionVerdicts)
    .where(and(eq(definitionVerdicts.serverId, serverId), inArray(definitionVerdicts.webhookId, ids)));
  return new Map(rows.map((row) => [keyOf(row, row.webhookId), row]));
}

function keyOf({ kind, digest }: Pick<DefinitionWording, 'kind' | 'digest'>, webhookId: string): string {
  return `${webhookId} ${kind} ${digest}`;
}

function standingOf(
  row: WebhookRow,
  verdict: DefinitionVerdictRow | undefined,
  { kind, name, digest }: DefinitionWording,
): WebhookStanding {
  const what = `${kind} ${name} as ${digest}`;
  if (verdict === undefined || verdict.webhookRevision !== row.revision) {
    return { state: 'unanswered', problem: `the webhook "${row.name}" has not been asked about ${what}` };
  }
  const because = verdict.reason === '' ? '' : `: ${verdict.reason}`;
  switch (verdict.decision) {
    case 'allow':
      return clear;
    case 'deny':
      return { state: 'denied', problem: `the webhook "${row.name}" denied ${what}${because}` };
    case 'failure':
      if (mayFailOpen(row, verdict.reason)) return clear;
      return { state: 'unanswered', problem: `the webhook "${row.name}" gave no verdict on ${what}${because}` };
    default:
      return verdict.decision satisfies never;
  }
}
