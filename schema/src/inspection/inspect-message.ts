import type { TextKind } from '../detectors/injection.ts';
import { carryOver, type DetectionInput, type DetectionResult } from './find-in-texts.ts';
import {
  applyChanges,
  isBlocking,
  judgeMessage,
  type TextChange,
  unlookedVerdict,
  type Verdict,
} from './judge-message.ts';
import { type CompiledPolicy, detectorsOf } from './match-policies.ts';
import { type MessageText, messageTexts, NotInspectable } from './message-texts.ts';
import { doesSomething, type PolicyDirection } from './policy.ts';

/** A JSON message to be looked at under the policies that are about it. */
export interface Inspection {
  readonly policies: readonly CompiledPolicy[];
  readonly direction: PolicyDirection;
  /** Null where its bytes are no text. */
  readonly message: string | null;
  /** Texts that go along with it outside of the message, by the name of their header. */
  readonly headers: readonly { readonly name: string; readonly text: string }[];
  readonly kind: TextKind;
  /** The end of the prose that came before on the same stream; empty where nothing did. */
  readonly carried: string;
}

export interface InspectionResult {
  readonly isBlocked: boolean;
  readonly verdicts: readonly Verdict[];
  /** The message as it goes on; null where it is as it was given. */
  readonly changed: string | null;
  /** New texts of headers, by name. */
  readonly headers: ReadonlyMap<string, string>;
  readonly labels: readonly string[];
  /** What the next message of the same stream is looked at together with. */
  readonly carried: string;
}

/** Looks for something in texts: here, or in another thread; rejects where it could not. */
export type Detect = (input: DetectionInput) => DetectionResult | Promise<DetectionResult>;

/**
 * Looks at a message under policies and says what becomes of it. What cannot be looked at is blocked, or has the outcome
 * that the policy sets for what is too large; a detector that fails blocks. Answers at once where `detect` does.
 */
export function inspectMessage(inspection: Inspection, detect: Detect): InspectionResult | Promise<InspectionResult> {
  const unruled = inspection.policies.filter(({ entry }) => !doesSomething(entry));
  const closed = unlooked(inspection, unruled, 'noRules');
  const ruled =
    unruled.length === 0 ? inspection.policies : inspection.policies.filter((one) => !unruled.includes(one));
  if (closed.isBlocked || ruled.length === 0) return closed;
  const { message } = inspection;
  if (message === null) return unlooked(inspection, ruled, 'notInspectable', closed.verdicts);
  let texts: MessageText[];
  try {
    texts = withHeaders(messageTexts(message), inspection.headers);
  } catch (error) {
    if (!(error instanceof NotInspectable)) throw error;
    return unlooked(inspection, ruled, 'notInspectable', closed.verdicts);
  }
  if (texts.length === 0) return passed(inspection, closed.verdicts);
  const length = texts.reduce((sum, { text }) => sum + text.length, 0);
  const looking = ruled.filter(({ entry }) => length <= entry.inspectedLengthMax);
  const tooLarge = ruled.filter(({ entry }) => length > entry.inspectedLengthMax);
  const before = unlooked(inspection, tooLarge, 'tooLarge', closed.verdicts);
  if (before.isBlocked || looking.length === 0) return before;
  const { kind, carried } = inspection;
  const input = {
    texts: texts.map(({ text, role, member }) => ({ text, role, member })),
    kind,
    carried,
    detectors: detectorsOf(looking),
  };
  const judge = (found: DetectionResult): InspectionResult =>
    judged(inspection, looking, texts, before.verdicts, found);
  const fail = (): InspectionResult => unlooked(inspection, looking, 'notInspected', before.verdicts);
  try {
    const found = detect(input);
    return found instanceof Promise ? found.then(judge).catch(fail) : judge(found);
  } catch {
    return fail();
  }
}

/** What a header says that the message does not. */
function withHeaders(texts: MessageText[], headers: Inspection['headers']): MessageText[] {
  if (headers.length === 0) return texts;
  const said = new Set(texts.map(({ text }) => text));
  const own = headers.filter(({ text }) => !said.has(text));
  const placed = { role: 'header', start: 0, end: 0, encoding: 'plain', isFixed: false } as const;
  return [...texts, ...own.map(({ name, text }) => ({ ...placed, text, member: name, path: `header:${name}` }))];
}

function passed({ carried }: Inspection, verdicts: readonly Verdict[]): InspectionResult {
  return { isBlocked: false, verdicts, changed: null, headers: new Map(), labels: [], carried };
}

/** Why no detector looked at a message, and as what a verdict says so. */
const unlookedReasons = {
  tooLarge: 'size',
  notInspectable: 'size',
  noRules: 'failure',
  notInspected: 'failure',
} as const;

function unlooked(
  inspection: Inspection,
  policies: readonly CompiledPolicy[],
  reason: keyof typeof unlookedReasons,
  before: readonly Verdict[] = [],
): InspectionResult {
  const verdicts = policies.map((policy) =>
    unlookedVerdict(policy, inspection.direction, unlookedReasons[reason], reason),
  );
  return { ...passed(inspection, [...before, ...verdicts]), isBlocked: verdicts.some(isBlocking) };
}

function judged(
  inspection: Inspection,
  policies: readonly CompiledPolicy[],
  texts: readonly MessageText[],
  before: readonly Verdict[],
  found: DetectionResult,
): InspectionResult {
  const { direction, message, carried } = inspection;
  const { isBlocked, verdicts, changes, labels } = judgeMessage(policies, direction, texts, found);
  const isChanged = changes.some(({ text }) => texts[text]?.role !== 'header');
  return {
    isBlocked,
    verdicts: [...before, ...verdicts],
    changed: isChanged && message !== null ? applyChanges(message, texts, changes) : null,
    headers: changedHeaders(inspection.headers, texts, changes),
    labels,
    carried: carryOver(carried, texts),
  };
}

/** A header that mirrors a value says the same as the value: both are changed alike. */
function changedHeaders(
  headers: Inspection['headers'],
  texts: readonly MessageText[],
  changes: readonly TextChange[],
): ReadonlyMap<string, string> {
  const changed = new Map<string, string>();
  for (const { name, text } of headers) {
    const change = changes.find((one) => texts[one.text]?.text === text);
    if (change !== undefined) changed.set(name, change.replacement);
  }
  return changed;
}
