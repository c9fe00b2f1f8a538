import {
  AppError,
  allMethodRules,
  type CompiledPolicy,
  compilePolicy,
  findInTexts,
  type InspectionResult,
  inspectMessage,
  type PolicyDirection,
  type PolicyRule,
  type Verdict,
} from '@sallyport/schema';
import type {
  CapturedSample,
  CapturedSamples,
  PayloadSampleService,
  UntriedReason,
} from '../capture/payload-sample.service.ts';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { Violations } from '../database/violations.ts';
import type { PolicyService } from './policy.service.ts';
import { policyEntry } from './policy-entry.ts';
import { fieldsOf, newPolicy, type PolicyFieldsInput } from './policy-form.ts';

const samplesMax = 32;
/** All samples together, in characters: they are looked at while others wait. */
const samplesLengthMax = 131_072;

export interface PolicySample {
  readonly direction: PolicyDirection;
  readonly message?: unknown;
  readonly text?: string | null | undefined;
}

export interface TestPolicy extends Pick<PolicyFieldsInput, 'match' | 'rules' | 'inspectedLengthMax' | 'onTooLarge'> {
  readonly policyId?: string | null | undefined;
  /** One of the two. */
  readonly samples?: readonly PolicySample[] | null | undefined;
  readonly captured?: CapturedSamples | null | undefined;
}

export interface Trial {
  /** Null where it was not tried. */
  readonly isBlocked: boolean | null;
  readonly verdicts: readonly Verdict[];
  readonly message: unknown;
  readonly text: string | null;
  readonly labels: readonly string[];
  /** The captured payload it was tried on; null for a sample that was given. */
  readonly payload: CapturedSample['source'] | null;
  readonly untried: UntriedReason | null;
}

const listMethods: ReadonlySet<string> = new Set(
  allMethodRules().flatMap(({ method, rule }) => (rule.list === undefined ? [] : [method])),
);

/** Tries policies on samples, by the very function that nodes call; nothing of the samples is kept. */
export class PolicyTrialService {
  private readonly database: Database;
  private readonly policies: PolicyService;
  private readonly payloadSamples: PayloadSampleService;

  constructor(database: Database, policies: PolicyService, payloadSamples: PayloadSampleService) {
    this.database = database;
    this.policies = policies;
    this.payloadSamples = payloadSamples;
  }

  /**
   * What the policy would do, in force, whatever its mode; all that is wrong with the draft at once. Its match chooses
   * among captured exchanges, and is left aside otherwise.
   */
  async test(ctx: Context, input: TestPolicy): Promise<Trial[]> {
    ctx.authorize('policy:read');
    if (input.captured) ctx.authorize('payload:read');
    const existing = input.policyId ? await this.policies.get(ctx, input.policyId) : undefined;
    const found = new Violations();
    const { policyId: _id, samples, captured, ...said } = input;
    const fields = fieldsOf(said, existing ?? { ...newPolicy, name: 'draft', rules: [] });
    await this.policies.check(this.database.db, found, said, fields);
    const isGiven = samples !== undefined && samples !== null;
    if (isGiven === Boolean(captured)) found.add('input.samples', 'must be given, or captured in their place');
    const messages = isGiven ? messagesOf(found, samples) : [];
    const named = captured ? await this.payloadSamples.check(ctx, found, 'input.captured', captured) : [];
    found.assertNone();
    const rules = fields.rules.filter((rule): rule is PolicyRule => rule.action !== 'requireApproval');
    const policy = compilePolicy(policyEntry({ ...fields, id: existing?.id ?? 'draft', rules }, 'enforce'));
    if (!captured) {
      return (samples ?? []).map((sample, index) => {
        const given = messages[index] ?? '';
        return trialOf(sample, given, looked(ctx, policy, sample.direction, { message: given }));
      });
    }
    const trials: Trial[] = [];
    for await (const sample of this.payloadSamples.samples(ctx, captured, named, policy)) {
      trials.push(capturedTrial(ctx, policy, sample));
    }
    return trials;
  }
}

interface Looked {
  readonly message: string;
  readonly kind?: 'content' | 'definition';
  readonly carried?: string;
}

function looked(
  ctx: Context,
  policy: CompiledPolicy,
  direction: PolicyDirection,
  { message, kind = 'content', carried = '' }: Looked,
): InspectionResult {
  const inspection = { policies: [policy], direction, message, headers: [], kind, carried };
  const result = inspectMessage(inspection, (texts) => findInTexts(texts, () => ctx.clock.monotonic()));
  if (result instanceof Promise) throw new AppError('INTERNAL', { internal: 'a trial did not answer at once' });
  return result;
}

/** What the policy says of all messages of a payload, each looked at as the next one of its stream; never what they say. */
function capturedTrial(ctx: Context, policy: CompiledPolicy, { source, method, opened }: CapturedSample): Trial {
  const base = { message: null, text: null, payload: source };
  if (typeof opened === 'string') return { ...base, isBlocked: null, verdicts: [], labels: [], untried: opened };
  const kind = method !== null && listMethods.has(method) ? 'definition' : 'content';
  const results: InspectionResult[] = [];
  for (const message of opened) {
    const carried = results.at(-1)?.carried ?? '';
    results.push(looked(ctx, policy, source.direction, { message, kind, carried }));
  }
  return {
    ...base,
    isBlocked: results.some(({ isBlocked }) => isBlocked),
    verdicts: results.flatMap(({ verdicts }) => verdicts),
    labels: [...new Set(results.flatMap(({ labels }) => labels))],
    untried: null,
  };
}

function messagesOf(found: Violations, samples: readonly PolicySample[]): string[] {
  if (samples.length === 0 || samples.length > samplesMax)
    found.add('input.samples', `must have 1 to ${samplesMax} samples`);
  const messages = samples
    .slice(0, samplesMax)
    .map((sample, index) => messageOf(found, `input.samples[${index}]`, sample));
  if (messages.reduce((sum, { length }) => sum + length, 0) > samplesLengthMax) {
    found.add('input.samples', `must have at most ${samplesLengthMax} characters together`);
  }
  return messages;
}

/** The sample as a message; a text stands in one as an item of content does. */
function messageOf(found: Violations, path: string, { message, text }: PolicySample): string {
  const isMessage = message !== undefined && message !== null;
  if (isMessage === (typeof text === 'string')) found.add(path, 'must have a message or a text');
  if (!isMessage) return JSON.stringify({ text: text ?? '' });
  if (typeof message !== 'object' || Array.isArray(message)) found.add(`${path}.message`, 'must be a JSON object');
  return JSON.stringify(message);
}

function trialOf(
  sample: PolicySample,
  given: string,
  { isBlocked, verdicts, changed, labels }: InspectionResult,
): Trial {
  const sent: unknown = JSON.parse(changed ?? given);
  const isText = typeof sample.text === 'string';
  return {
    isBlocked,
    verdicts,
    labels,
    payload: null,
    untried: null,
    message: isBlocked || isText ? null : sent,
    text: isBlocked || !isText ? null : (sent as { readonly text: string }).text,
  };
}
