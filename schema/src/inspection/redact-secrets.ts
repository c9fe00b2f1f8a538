import { pointerParts } from '../json-pointer.ts';
import type { DetectionInput, DetectionResult } from './find-in-texts.ts';
import { applyChanges, redacted, type TextChange } from './judge-message.ts';
import { type BinaryValue, type MessageText, NotInspectable, wholeMessage } from './message-texts.ts';
import { anyMember, isSecretName } from './secret-members.ts';

/** What stands where a value was taken out as a whole. */
const secretMark = '[redacted secret member]';
const binaryMark = '[not stored: binary]';
/** What a text that holds members begins with. */
const jsonStart = /^\s*[{[]/;
const textDepthMax = 4;

/** Messages without what is secret in them, each still valid JSON. */
export interface RedactedMessages {
  readonly messages: readonly string[];
  /** Values from which something was taken out, binary bodies included. */
  readonly redactions: number;
}

interface Placed {
  readonly message: number;
  /** Index among the texts of the message. */
  readonly index: number;
  readonly found: MessageText;
}

/**
 * Takes secrets out of messages that belong together: what the detector of secrets finds, read as one so that a secret
 * cut over several is found; values of members whose name, or the schema of the tool, says that they are secret, in
 * texts that are JSON themselves too; and bodies that are no text, in which nothing can be found. Every other character
 * stays.
 * @param members names that schemas say are secret, `anyMember` for all
 * @throws NotInspectable, also of what is no JSON, and what `detect` throws: then nothing of the messages may be kept
 */
export async function redactSecrets(
  messages: readonly string[],
  members: readonly string[],
  detect: (input: DetectionInput) => DetectionResult | Promise<DetectionResult>,
): Promise<RedactedMessages> {
  const secret = new Set(members);
  const named = messages.map((message) => withoutSecretMembers(message, secret));
  const found = await redactFound(
    named.map(({ text }) => text),
    detect,
  );
  return { ...found, redactions: named.reduce((sum, { redactions }) => sum + redactions, found.redactions) };
}

async function redactFound(
  messages: readonly string[],
  detect: (input: DetectionInput) => DetectionResult | Promise<DetectionResult>,
): Promise<RedactedMessages> {
  const wholes = messages.map((message) => wholeMessage(message));
  const placed = wholes.flatMap(({ texts }, message) =>
    texts.map((found, index): Placed => ({ message, index, found })),
  );
  const texts = placed.map(({ found: { text, role, member } }) => ({ text, role, member }));
  const { findings } = await detect({ texts, kind: 'content', detectors: ['secret'], carried: '' });
  const places = Map.groupBy(
    findings.flatMap(({ places: all, category }) => all.map((place) => ({ ...place, category }))),
    ({ text }) => text,
  );
  const changes: TextChange[][] = messages.map(() => []);
  for (const [at, { message, index, found }] of placed.entries()) {
    const parts = places.get(at);
    if (parts !== undefined) changes[message]?.push({ text: index, replacement: redacted(found, parts) });
  }
  return {
    messages: wholes.map(({ texts: own, binaries }, at) =>
      applyChanges(
        messages[at] ?? '',
        [...own, ...binaries.map(asText)],
        [
          ...(changes[at] ?? []),
          ...binaries.map((_, index) => ({ text: own.length + index, replacement: binaryMark })),
        ],
      ),
    ),
    redactions: changes.flat().length + wholes.reduce((sum, { binaries }) => sum + binaries.length, 0),
  };
}

interface Redacted {
  readonly text: string;
  readonly redactions: number;
}

/** @param depth of texts that are JSON within texts that are */
function withoutSecretMembers(message: string, secret: ReadonlySet<string>, depth = 0): Redacted {
  if (!isJson(message)) throw new NotInspectable('no JSON');
  const { texts } = wholeMessage(message);
  let redactions = 0;
  const changes = texts.flatMap(({ role, path, text }, index): TextChange[] => {
    if (role === 'name') return [];
    if (isSecretMember(path, secret)) {
      redactions += 1;
      return [{ text: index, replacement: role === 'number' ? '0' : secretMark }];
    }
    if (!jsonStart.test(text) || !isJson(text)) return [];
    // Tools give what is structured as text, too.
    if (depth === textDepthMax) throw new NotInspectable('texts that are JSON, within one another too often');
    const inner = withoutSecretMembers(text, secret, depth + 1);
    redactions += inner.redactions;
    return inner.redactions === 0 ? [] : [{ text: index, replacement: inner.text }];
  });
  return { text: applyChanges(message, texts, changes), redactions };
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Whether a member that holds the value, at whatever depth, is secret. */
function isSecretMember(path: string, members: ReadonlySet<string>): boolean {
  const parts = pointerParts(path);
  if (members.has(anyMember) && isContent(parts)) return true;
  return parts.some((part) => members.has(part) || isSecretName(part));
}

/** What a tool takes and gives, apart from what the protocol says around it. */
function isContent([side, member]: readonly string[]): boolean {
  return (side === 'params' && member === 'arguments') || (side === 'result' && member !== '_meta');
}

function asText({ start, end }: BinaryValue): MessageText {
  return { text: '', role: 'data', path: '', member: '', start, end, encoding: 'plain', isFixed: false };
}
