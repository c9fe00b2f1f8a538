import {
  AppError,
  compilePolicy,
  findInTexts,
  inspectMessage,
  type InspectionResult,
  type PolicyDirection,
  type PolicyRule,
  type Verdict,
} from '@sallyport/schema';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { Violations } from '../database/violations.ts';
import { policyEntry } from './policy-entry.ts';
import { fieldsOf, newPolicy, type PolicyFieldsInput } from './policy-form.ts';
import type { PolicyService } from './policy.service.ts';

const samplesMax = 32;
/** All samples together, in characters: they are looked at while others wait. */
const samplesLengthMax = 131_072;

export interface PolicySample {
  readonly direction: PolicyDirection;
  readonly message?: unknown;
  readonly text?: string | null | undefined;
}

export interface TestPolicy extends Pick<PolicyFieldsInput, 'rules' | 'inspectedLengthMax' | 'onTooLarge'> {
  readonly policyId?: string | null | undefined;
  readonly samples: readonly PolicySample[];
}

export interface Trial {
  readonly isBlocked: boolean;
  readonly verdicts: readonly Verdict[];
  readonly message: unknown;
  readonly text: string | null;
  readonly labels: readonly string[];
}

/** Tries policies on samples, by the very function that nodes call; nothing of the samples is kept. */
export class PolicyTrialService {
  private readonly database: Database;
  private readonly policies: PolicyService;

  constructor(database: Database, policies: PolicyService) {
    this.database = database;
    this.policies = policies;
  }

  /** What the policy would do, in force, whatever its mode and match; all that is wrong with the draft at once. */
  async test(ctx: Context, input: TestPolicy): Promise<Trial[]> {
    ctx.authorize('policy:read');
    const existing = input.policyId ? await this.policies.get(ctx, input.policyId) : undefined;
    const found = new Violations();
    const { policyId: _id, samples, ...said } = input;
    const fields = fieldsOf(said, existing ?? { ...newPolicy, name: 'draft', rules: [] });
    await this.policies.check(this.database.db, found, said, fields);
    const messages = samples
      .slice(0, samplesMax)
      .map((sample, index) => messageOf(found, `input.samples[${index}]`, sample));
    if (samples.length === 0 || samples.length > samplesMax)
      found.add('input.samples', `must have 1 to ${samplesMax} samples`);
    if (messages.reduce((sum, { length }) => sum + length, 0) > samplesLengthMax) {
      found.add('input.samples', `must have at most ${samplesLengthMax} characters together`);
    }
    found.assertNone();
    const rules = fields.rules.filter((rule): rule is PolicyRule => rule.action !== 'requireApproval');
    const policy = compilePolicy(policyEntry({ ...fields, id: existing?.id ?? 'draft', rules }, 'enforce'));
    return samples.map((sample, index) => {
      const inspection = {
        policies: [policy],
        direction: sample.direction,
        message: messages[index] ?? '',
        headers: [],
        kind: 'content' as const,
        carried: '',
      };
      const result = inspectMessage(inspection, (texts) => findInTexts(texts, () => ctx.clock.monotonic()));
      if (result instanceof Promise) throw new AppError('INTERNAL', { internal: 'a trial did not answer at once' });
      return trialOf(sample, messages[index] ?? '', result);
    });
  }
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
    message: isBlocked || isText ? null : sent,
    text: isBlocked || !isText ? null : (sent as { readonly text: string }).text,
  };
}
