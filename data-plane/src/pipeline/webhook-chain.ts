/** Webhooks about one message: those that may change it one after the other, then all others at once about what is left. */
import {
  type CompiledPolicy,
  type InspectionEvent,
  isBlocking,
  mayFailOpen,
  mayMutate,
  mutates,
  type PatchOperation,
  pointerParts,
  type PolicyDirection,
  sha256,
  type Verdict,
  verdictPathLengthMax,
  verdictPlacesMax,
  webhookBudgetMsDefault,
  type WebhookEntry,
  type WebhookFailure,
  webhookFailures,
  type WebhookVerdict,
} from '@sallyport/schema';
import type { WebhookSender } from '@sallyport/schema/platform';
import { uuidv7 } from '@sallyport/schema/platform';
import { isObject } from '../mcp/envelope.ts';
import { rangeAt } from '../mcp/json-pointer.ts';
import { applyEdits, parseRange, scanJson } from '../mcp/json-scanner.ts';
import type { Authorized } from './exchange.ts';

export interface WebhookChainOptions {
  readonly nodeId: string;
  readonly sender: Pick<WebhookSender, 'ask'>;
  /** Whether arguments fit one of these input schemas. */
  readonly fits: (schemas: readonly string[], values: unknown) => boolean;
  readonly metrics: { asked(webhookId: string, durationMs: number, failure: WebhookFailure | null): void };
  readonly now: () => number;
  readonly monotonic: () => number;
}

/** A message to ask about. */
export interface AskedMessage {
  readonly authorized: Authorized;
  readonly direction: PolicyDirection;
  /** Those that are about the message, in their order. */
  readonly policies: readonly CompiledPolicy[];
  readonly message: string;
  /** The message without secrets and personal data; null where they cannot be taken out. */
  readonly redact: (message: string) => Promise<string | null>;
  /** Of the monotonic clock: nobody is waited for any longer. */
  readonly until: number;
}

export interface ChainResult {
  readonly isBlocked: boolean;
  readonly verdicts: readonly Verdict[];
  /** The message as it goes on. */
  readonly message: string;
}

interface Asked {
  readonly policy: CompiledPolicy;
  readonly webhookId: string;
  /** Undefined where the configuration has none of that id. */
  readonly webhook: WebhookEntry | undefined;
  readonly acts: boolean;
}

/** Whether any webhook is asked about messages under the policies. */
export function asksWebhooks(policies: readonly CompiledPolicy[]): boolean {
  return policies.some(({ entry }) => entry.webhookIds !== undefined);
}

/** For how long webhooks are waited for, in milliseconds. */
export function webhookBudgetMs(policies: readonly CompiledPolicy[]): number {
  const budgets = policies.flatMap(({ entry }) =>
    entry.webhookIds === undefined ? [] : [entry.webhookBudgetMs ?? webhookBudgetMsDefault],
  );
  return Math.max(...budgets);
}

export class WebhookChain {
  readonly #options: WebhookChainOptions;

  constructor(options: WebhookChainOptions) {
    this.#options = options;
  }

  /** Asks those that may change the message, in order; each sees what the ones before left. Never rejects. */
  async mutate(asked: AskedMessage): Promise<ChainResult> {
    let { message } = asked;
    const verdicts: Verdict[] = [];
    for (const one of askedOf(asked, true)) {
      const { verdict, changed } = await this.#ask(one, { ...asked, message });
      verdicts.push(verdict);
      if (isBlocking(verdict)) return { isBlocked: true, verdicts, message };
      message = changed ?? message;
    }
    return { isBlocked: false, verdicts, message };
  }

  /** Asks all others, at once. Never rejects. */
  async validate(asked: AskedMessage): Promise<ChainResult> {
    const answers = await Promise.all(askedOf(asked, false).map((one) => this.#ask(one, asked)));
    const verdicts = answers.map(({ verdict }) => verdict);
    return { isBlocked: verdicts.some(isBlocking), verdicts, message: asked.message };
  }

  async #ask(one: Asked, asked: AskedMessage): Promise<{ readonly verdict: Verdict; readonly changed: string | null }> {
    const { monotonic, metrics } = this.#options;
    const startedAt = monotonic();
    const answered = await this.#verdict(one, asked);
    const durationMs = monotonic() - startedAt;
    const failure = typeof answered === 'string' ? answered : null;
    metrics.asked(one.webhookId, durationMs, failure);
    const changed = typeof answered === 'string' || answered.changed === null || !one.acts ? null : answered.changed;
    return { verdict: verdictOf(one, asked.direction, answered, durationMs), changed };
  }

  async #verdict(one: Asked, asked: AskedMessage): Promise<WebhookFailure | Answered> {
    const { webhook } = one;
    if (webhook === undefined) return 'unknownWebhook';
    const leftMs = asked.until - this.#options.monotonic();
    if (leftMs <= 0) return 'budgetSpent';
    if (Buffer.byteLength(asked.message) > webhook.payloadBytesMax) return 'payloadTooLarge';
    const event = await this.#event(one, webhook, asked, leftMs);
    if (event === undefined) return 'notInspectable';
    const { failure, verdict } = await this.#options.sender.ask(webhook, event, leftMs);
    if (failure !== null) return failure;
    if (verdict.decision !== 'modify') return { verdict, changed: null };
    const changed = this.#patched(webhook, asked, verdict.patch);
    return typeof changed === 'string' ? changed : { verdict, changed: changed.message };
  }

  async #event(
    { acts }: Asked,
    webhook: WebhookEntry,
    asked: AskedMessage,
    leftMs: number,
  ): Promise<InspectionEvent | undefined> {
    const { authorized, direction, message } = asked;
    const sent =
      webhook.content === 'full' ? message : webhook.content === 'digest' ? null : await asked.redact(message);
    // It stands in the payload as it is, numbers and all; so it must be JSON.
    if (sent !== null && !scanJson(Buffer.from(sent)).ok) return undefined;
    const at = this.#options.now();
    // Of what is shown: by the digest of more, a receiver could find out what was taken out.
    const digest = `sha-256:${sha256(sent ?? message)}`;
    const context = {
      mode: acts ? 'enforce' : 'shadow',
      boundary: direction === 'request' ? 'client_to_upstream' : 'upstream_to_client',
      ...contextOf(authorized, this.#options.nodeId),
      sizeBytes: Buffer.byteLength(message),
      content: sent === null ? 'digest' : webhook.content,
    };
    const { method = null } = authorized.routed.received.message ?? {};
    const deadlineMs = Math.floor(Math.min(leftMs, webhook.deadlineMs));
    return { kind: direction, id: `msg_${uuidv7(at)}`, digest, at, deadlineMs, context, method, message: sent };
  }

  /** The message with all of the patch or none of it. */
  #patched(
    { mutablePaths }: WebhookEntry,
    { authorized, direction, message }: AskedMessage,
    patch: readonly PatchOperation[],
  ): { readonly message: string } | WebhookFailure {
    let bytes: Buffer = Buffer.from(message);
    for (const { path, value } of patch) {
      if (!mayMutate(mutablePaths, path) || hasMeta(value)) return 'patchForbidden';
      const scan = scanJson(bytes);
      const range = scan.ok ? rangeAt(bytes, scan.root, pointerParts(path)) : undefined;
      if (range === undefined) return 'patchInvalid';
      // Of answers no schema is at hand: what was a list stays one, and a text a text.
      if (direction === 'response' && typeOf(parseRange(bytes, range)) !== typeOf(value)) return 'patchInvalid';
      bytes = applyEdits(bytes, [{ ...range, replacement: JSON.stringify(value) }]);
    }
    const scan = scanJson(bytes);
    if (!scan.ok) return 'patchInvalid';
    if (direction === 'request') {
      const range = rangeAt(bytes, scan.root, ['params', 'arguments']);
      if (range !== undefined && !this.#areArguments(authorized, parseRange(bytes, range))) return 'argumentsInvalid';
    }
    return { message: bytes.toString('utf8') };
  }

  /** What a webhook made of arguments must fit what was approved; of a tool whose schema is not known nothing does. */
  #areArguments({ target, routed }: Authorized, values: unknown): boolean {
    if (!isObject(values)) return false;
    if (target?.kind !== 'tool') return Object.values(values).every((value) => typeof value === 'string');
    const schemas = routed.server.definitions.get('tool', target.name)?.inputSchemas;
    return schemas !== undefined && this.#options.fits(schemas, values);
  }
}

/** Whether there is a `_meta` anywhere in a value: it speaks to clients, apart from what was asked. */
function hasMeta(value: unknown): boolean {
  if (Array.isArray(value)) return value.some(hasMeta);
  if (!isObject(value)) return false;
  return Object.hasOwn(value, '_meta') || Object.values(value).some(hasMeta);
}

function typeOf(value: unknown): string {
  return Array.isArray(value) ? 'array' : value === null ? 'null' : typeof value;
}

interface Answered {
  readonly verdict: WebhookVerdict;
  readonly changed: string | null;
}

/** Each webhook once, at its first place; it acts where any policy that acts names it. */
function askedOf({ policies, direction, authorized }: AskedMessage, changing: boolean): Asked[] {
  const { webhooks } = authorized.routed.runtime;
  const all = new Map<string, Asked>();
  for (const policy of policies) {
    for (const webhookId of policy.entry.webhookIds ?? []) {
      const webhook = webhooks.get(webhookId);
      if (webhook !== undefined && (webhook.mode === 'off' || !webhook.events.includes(direction))) continue;
      const acts = policy.entry.mode === 'enforce' && webhook?.mode !== 'shadow';
      const known = all.get(webhookId);
      if (known === undefined) all.set(webhookId, { policy, webhookId, webhook, acts });
      else if (acts && !known.acts) all.set(webhookId, { ...known, policy, acts });
    }
  }
  return [...all.values()].filter(({ webhook, acts }) => {
    const changes = webhook !== undefined && acts && mutates(webhook, direction);
    return changes === changing;
  });
}

function verdictOf(
  { policy, webhookId, webhook, acts }: Asked,
  direction: PolicyDirection,
  answered: WebhookFailure | Answered,
  durationMs: number,
): Verdict {
  const common = {
    policyId: policy.entry.id,
    mode: acts ? ('enforce' as const) : ('shadow' as const),
    direction,
    detector: 'webhook' as const,
    webhookId,
    version: String(webhook?.version ?? 0),
    severity: null,
    count: 1,
    places: [],
    durationMs,
  };
  if (typeof answered === 'string') {
    const mayPass = webhook !== undefined && mayFailOpen(webhook, answered);
    const decision = mayPass ? ('allow' as const) : ('block' as const);
    return { ...common, decision, reason: answered };
  }
  const { verdict } = answered;
  const reason = verdict.reasonCode ?? '';
  switch (verdict.decision) {
    case 'allow':
      return { ...common, decision: 'pass', reason };
    case 'deny':
      return { ...common, decision: 'block', reason };
    case 'modify': {
      const changed = verdict.patch.slice(0, verdictPlacesMax);
      const places = changed.map(({ path }) => ({ path: path.slice(0, verdictPathLengthMax), start: 0, end: 0 }));
      return { ...common, decision: 'modify', reason, places };
    }
    default:
      return verdict satisfies never;
  }
}

/** Whether a verdict says that there was none. */
export function isWebhookFailure({ detector, reason }: Verdict): boolean {
  return detector === 'webhook' && (webhookFailures as readonly string[]).includes(reason);
}

/** Who asks whom for what. Nothing of the client's headers, and no credential. */
function contextOf({ routed, target }: Authorized, nodeId: string) {
  const { authenticated, received, server, runtime, protocolRevision } = routed;
  const { principal } = authenticated;
  const { exchange, request } = received;
  const { document } = server;
  const definition = target === null ? undefined : server.definitions.get(target.kind, target.name);
  return {
    auditEventId: exchange.eventId,
    principal: {
      id: principal.id,
      type: principal.kind,
      groups: principal.groups.map((id) => ({ id, name: runtime.groupNames.get(id) ?? null })),
    },
    client: {
      info: exchange.clientInfo,
      selfReported: true,
      protocolVersion: protocolRevision,
      address: request.remoteAddress,
    },
    target: {
      serverId: document.id,
      slug: document.slug,
      labels: document.labels,
      kind: target?.kind ?? null,
      name: target?.name ?? null,
      definitionDigests: definition?.approvedDigests ?? [],
      risk: definition?.labels?.risk ?? null,
    },
    event: received.message?.method ?? null,
    node: { id: nodeId, configRevision: runtime.revision },
    traceId: exchange.traceId,
  };
}
