/** Takes secrets out of captured messages and seals what is left: pure, for a thread of its own. */
import { isUtf8 } from 'node:buffer';
import { type DetectionInput, type DetectionResult, findInTexts } from '../inspection/find-in-texts.ts';
import { NotInspectable } from '../inspection/message-texts.ts';
import { redactSecrets } from '../inspection/redact-secrets.ts';
import { sealPayload, type SealedPayload } from './payload-sealing.ts';

/** Of messages with their secrets taken out, in UTF-16 units: sealed, they fit a line of the spool. */
const contentLengthMax = 2_621_440;

export interface SealJob {
  /** What the exchange is about, which stands in clear beside what is sealed; null where it is about nothing. */
  readonly target: string | null;
  /** The messages one after the other, with the length of each in bytes; null where nothing is kept of them. */
  readonly messages: { readonly bytes: Uint8Array<ArrayBuffer>; readonly lengths: readonly number[] } | null;
  /** Members that schemas of the tool say are secret. */
  readonly secretMembers: readonly string[];
  readonly publicKey: string;
  /** What says whose payload it is. */
  readonly identity: string;
}

export interface SealedMessages {
  /** Without what is secret in it. */
  readonly target: string | null;
  readonly redactions: number;
  /** Null where nothing was kept. */
  readonly sealed: SealedPayload | null;
  /** Why nothing is: what was sealed, and what there was nothing of, has no reason. */
  readonly omission: 'tooLarge' | 'notInspectable' | 'notInspected' | null;
  /** For the log, where it is none that messages can have. */
  readonly problem: string | null;
}

/** Never rejects: what cannot be inspected or sealed is not kept, and told so. */
export async function sealMessages(job: SealJob, monotonic: () => number): Promise<SealedMessages> {
  const detect = (input: DetectionInput): DetectionResult => findInTexts(input, monotonic);
  const target = job.target === null ? null : await safeTarget(job.target, detect);
  const left = { target, redactions: 0, sealed: null, problem: null };
  if (job.messages === null) return { ...left, omission: null };
  try {
    const redacted = await redactSecrets(textsOf(job.messages), job.secretMembers, detect);
    const content = JSON.stringify({ messages: redacted.messages });
    if (content.length > contentLengthMax) return { ...left, omission: 'tooLarge' };
    const sealed = sealPayload(job.publicKey, job.identity, content);
    return { ...left, redactions: redacted.redactions, sealed, omission: null };
  } catch (error) {
    if (error instanceof NotInspectable) return { ...left, omission: 'notInspectable' };
    return { ...left, omission: 'notInspected', problem: error instanceof Error ? error.message : String(error) };
  }
}

function textsOf({ bytes, lengths }: NonNullable<SealJob['messages']>): string[] {
  let at = 0;
  return lengths.map((length) => {
    const message = Buffer.from(bytes.buffer, bytes.byteOffset + at, length);
    at += length;
    if (!isUtf8(message)) throw new NotInspectable('no UTF-8');
    return message.toString('utf8');
  });
}

/** A URI may carry a secret. */
async function safeTarget(name: string, detect: (input: DetectionInput) => DetectionResult): Promise<string> {
  try {
    const { redactions } = await redactSecrets([JSON.stringify(name)], [], detect);
    return redactions === 0 ? name : '[redacted]';
  } catch {
    return '[not inspected]';
  }
}
