import { isUtf8 } from 'node:buffer';
import {
  AppError,
  type CompiledPolicy,
  type Detect,
  type DetectionInput,
  type DetectionResult,
  type DetectorName,
  findInTexts,
  type Inspection,
  inspectMessage,
  isBlocking,
  type InspectionResult,
  matchingPolicies,
  type PolicyDirection,
  redactMessage,
  type Verdict,
  verdictPlacesMax,
  verdictsMax,
} from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import type { InspectedServer } from '../telemetry/inspection-metrics.ts';
import type { Authorized, Exchange } from './exchange.ts';
import { asksWebhooks, isWebhookFailure, webhookBudgetMs, type WebhookChain } from './webhook-chain.ts';

/** More text than this is looked at in a thread, in UTF-16 units: the event loop would be kept from others. */
const inlineLengthMax = 16_384;

export interface InspectorOptions {
  readonly pool: { detect(input: DetectionInput): Promise<DetectionResult> };
  readonly metrics: {
    /** A detector looked at a message, in so many milliseconds. */
    inspected(server: InspectedServer, detector: DetectorName, durationMs: number): void;
    judged(server: InspectedServer, verdict: Verdict): void;
  };
  readonly webhooks: Pick<WebhookChain, 'mutate' | 'validate'>;
  readonly monotonic: () => number;
  readonly log: Pick<Log, 'warn'>;
}

/** A message that is looked at, and what of its stream came before. */
export interface InspectedMessage {
  readonly bytes: Buffer;
  readonly headers?: readonly { readonly name: string; readonly text: string }[];
  readonly carried?: string;
}

/** The policies of the pinned configuration that are about an exchange; null where none is, which costs one lookup. */
export function policiesFor(authorized: Authorized, direction: PolicyDirection): readonly CompiledPolicy[] | null {
  const { routed, target } = authorized;
  const policies = routed.runtime.policies.of(routed.server.document);
  if (policies === null) return null;
  const { principal } = routed.authenticated;
  const matching = matchingPolicies(policies[direction], { principal, target, definitions: routed.server.definitions });
  return matching.length === 0 ? null : matching;
}

/** Looks at the messages of exchanges under the policies that are about them, and notes what came of it. */
export class Inspector {
  readonly #options: InspectorOptions;

  constructor(options: InspectorOptions) {
    this.#options = options;
  }

  /** Answers at once where the text is short. Never rejects: what could not be looked at is blocked. */
  inspect(
    authorized: Authorized,
    direction: PolicyDirection,
    policies: readonly CompiledPolicy[],
    { bytes, headers = [], carried = '' }: InspectedMessage,
  ): InspectionResult | Promise<InspectionResult> {
    const { exchange } = authorized.routed.received;
    const message = isUtf8(bytes) ? bytes.toString('utf8') : null;
    const kind = authorized.rule?.list === undefined ? ('content' as const) : ('definition' as const);
    const inspection = { policies, direction, message, headers, kind, carried };
    const result = inspectMessage(inspection, this.#detectFor(authorized));
    if (asksWebhooks(policies)) return this.#withWebhooks(authorized, inspection, result);
    return result instanceof Promise
      ? result.then((late) => this.#noted(exchange, late))
      : this.#noted(exchange, result);
  }

  /**
   * Asks webhooks about what detectors let through. What a webhook made of it is looked at again, and those that change
   * nothing are asked last: they see what goes on.
   */
  async #withWebhooks(
    authorized: Authorized,
    inspection: Inspection,
    looked: InspectionResult | Promise<InspectionResult>,
  ): Promise<InspectionResult> {
    const { webhooks, monotonic } = this.#options;
    const { exchange } = authorized.routed.received;
    const { policies, direction } = inspection;
    const until = monotonic() + webhookBudgetMs(policies);
    const first = this.#noted(exchange, await looked);
    const message = first.changed ?? inspection.message;
    if (first.isBlocked || message === null) return first;
    const asked = { authorized, direction, policies, redact: this.#redactor(authorized), until };
    const mutated = await webhooks.mutate({ ...asked, message });
    this.#noteAll(exchange, mutated.verdicts);
    if (mutated.isBlocked) return { ...first, isBlocked: true, verdicts: mutated.verdicts };
    let last = first;
    if (mutated.message !== message) {
      const again = await inspectMessage(
        { ...inspection, message: mutated.message, headers: [] },
        this.#detectFor(authorized),
      );
      this.#noteAll(exchange, again.verdicts);
      const labels = [...new Set([...first.labels, ...again.labels])];
      last = { ...again, changed: again.changed ?? mutated.message, headers: first.headers, labels };
      if (last.isBlocked) return last;
    }
    const validated = await webhooks.validate({ ...asked, message: last.changed ?? message });
    this.#noteAll(exchange, validated.verdicts);
    return validated.isBlocked ? { ...last, isBlocked: true, verdicts: validated.verdicts } : last;
  }

  /** For all webhooks that are asked about a message: what came of the one before serves the next as well. */
  #redactor(authorized: Authorized): (message: string) => Promise<string | null> {
    const detect = this.#detectFor(authorized);
    let last: { readonly message: string; readonly redacted: Promise<string | null> } | undefined;
    return (message) => {
      if (last?.message !== message) last = { message, redacted: Promise.resolve(redactMessage(message, detect)) };
      return last.redacted;
    };
  }

  /** Notes what was decided about an exchange apart from policies. */
  note(exchange: Exchange, verdict: Verdict): void {
    const server = exchange.server?.document;
    if (server !== undefined) this.#options.metrics.judged(server, verdict);
    exchange.verdicts = withVerdict(exchange.verdicts ?? [], verdict);
  }

  #noted(exchange: Exchange, result: InspectionResult): InspectionResult {
    this.#noteAll(exchange, result.verdicts);
    const leaking = result.verdicts.find(({ detector, places }) => detector === 'secret' && places.some(isTarget));
    // Nor does the record name what a secret is in.
    if (leaking !== undefined && exchange.target !== null) {
      exchange.target = { ...exchange.target, name: `[redacted ${leaking.reason}]` };
    }
    return result;
  }

  #noteAll(exchange: Exchange, verdicts: readonly Verdict[]): void {
    for (const verdict of verdicts) this.note(exchange, verdict);
  }

  #detectFor({ routed }: Authorized): Detect {
    const { document } = routed.server;
    return (input) => this.#detect(input, document);
  }

  #detect(input: DetectionInput, server: InspectedServer): DetectionResult | Promise<DetectionResult> {
    const length = input.texts.reduce((sum, { text }) => sum + text.length, input.carried.length);
    if (length > inlineLengthMax) {
      return this.#options.pool.detect(input).then((result) => this.#timed(result, server), this.#failed);
    }
    try {
      return this.#timed(findInTexts(input, this.#options.monotonic), server);
    } catch (error) {
      return this.#failed(error);
    }
  }

  readonly #failed = (error: unknown): never => {
    this.#options.log.warn({ err: error }, 'a message could not be inspected');
    throw error;
  };

  #timed(result: DetectionResult, server: InspectedServer): DetectionResult {
    for (const [name, durationMs] of Object.entries(result.durations)) {
      this.#options.metrics.inspected(server, name as DetectorName, durationMs);
    }
    return result;
  }
}

function isTarget({ path }: Verdict['places'][number]): boolean {
  return path === '/params/name' || path === '/params/uri' || path.startsWith('/params/ref/');
}

/**
 * Verdicts of one kind are one, with how many they are: a stream that goes on for hours has a record of bounded size. What
 * stopped something has its place there before what only told.
 */
export function withVerdict(verdicts: readonly Verdict[], verdict: Verdict): readonly Verdict[] {
  const at = verdicts.findIndex((known) => isOfOneKind(known, verdict));
  const known = verdicts[at];
  if (known === undefined) {
    if (verdicts.length < verdictsMax) return [...verdicts, verdict];
    const least = acts(verdict) ? verdicts.findLastIndex((one) => !acts(one)) : -1;
    return least < 0 ? verdicts : [...verdicts.toSpliced(least, 1), verdict];
  }
  const places = [...known.places, ...verdict.places].slice(0, verdictPlacesMax);
  const durationMs = known.durationMs + verdict.durationMs;
  return verdicts.with(at, { ...known, count: known.count + verdict.count, places, durationMs });
}

function acts({ decision, mode }: Verdict): boolean {
  return mode === 'enforce' && (decision === 'block' || decision === 'redact' || decision === 'modify');
}

function isOfOneKind(one: Verdict, other: Verdict): boolean {
  return (['policyId', 'mode', 'direction', 'detector', 'webhookId', 'decision', 'reason'] as const).every(
    (member) => one[member] === other[member],
  );
}

/** What the sender of a blocked message is told: which detector, never what it found. */
export function blockedError({ verdicts }: InspectionResult): AppError {
  const blocking = verdicts.filter(isBlocking);
  if (blocking.some((verdict) => verdict.detector === 'failure' || isWebhookFailure(verdict)))
    return new AppError('INSPECTION_FAILED');
  const detectors = [...new Set(blocking.map(({ detector }) => detector))].sort();
  return new AppError('BLOCKED_BY_POLICY', { data: { detectors } });
}
