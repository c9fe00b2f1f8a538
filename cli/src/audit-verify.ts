import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';
import {
  type AuditExportEntry,
  auditExportEntrySchema,
  type CheckpointBody,
  checkpointBodySchema,
  type CheckpointHead,
  checkpointSigningText,
  epochSeed,
  exportEndSigningText,
  sha256,
} from '@sallyport/schema';
import { z } from 'zod';

export type AuditFindingCode =
  | 'NOT_AN_EXPORT'
  | 'SIGNATURE_WRONG'
  | 'CHECKPOINT_MISSING'
  | 'LINES_MISSING'
  | 'LINE_OUT_OF_ORDER'
  | 'CHAIN_BROKEN'
  | 'HEAD_WRONG'
  | 'UNSIGNED_TAIL'
  | 'EXPORT_CUT'
  | 'EXPORT_CHANGED';

export interface AuditFinding {
  readonly code: AuditFindingCode;
  readonly message: string;
  /** Where in the trail, if it is about one place there. */
  readonly at: { readonly nodeId: string; readonly epoch: string; readonly sequence: number } | undefined;
}

export interface AuditVerification {
  readonly ok: boolean;
  readonly lines: number;
  readonly checkpoints: number;
  readonly epochs: number;
  readonly from: string | undefined;
  readonly to: string | undefined;
  /** In the order of the file; at most `findingsMax`, the first ones. */
  readonly findings: readonly AuditFinding[];
  readonly findingsTotal: number;
  /** Lines that a signed checkpoint declares lost. */
  readonly declaredGaps: number;
}

const findingsMax = 100;
const entryBytesMax = 4 * 1024 * 1024;
const newline = 0x0a;
const lineSchema = z.looseObject({ sequence: z.number().int(), previous: z.string() });

/**
 * Checks an export of the audit trail offline: that every chain runs unbroken from one signed head to another, that
 * every checkpoint between is there and signed by the fleet's key, and that the file is whole. What it cannot tell:
 * whether the newest checkpoints were withheld together with all they cover; compare the numbers of two exports.
 * @param stream the export's bytes
 * @param fleetPublicKey SPKI DER in base64, from a source that is not the export
 */
export async function verifyAuditExport(
  stream: AsyncIterable<Uint8Array | string>,
  fleetPublicKey: string,
): Promise<AuditVerification> {
  const verifier = new Verifier(parseKey(fleetPublicKey));
  for await (const line of linesOf(stream)) verifier.take(line);
  return verifier.finish();
}

/** For people: what was checked, and every finding. */
export function describeVerification(result: AuditVerification): string {
  const range = result.from === undefined ? '' : ` of ${result.from} to ${result.to ?? ''}`;
  const counts = `${result.lines} records of ${result.epochs} chains, ${result.checkpoints} checkpoints`;
  const gaps =
    result.declaredGaps === 0 ? '' : `\n${result.declaredGaps} records are lost, as signed checkpoints declare.`;
  if (result.ok) return `The audit trail${range} is complete and unchanged: ${counts}.${gaps}`;
  const lines = result.findings.map(({ code, message, at }) => {
    const place = at === undefined ? '' : ` at node ${at.nodeId}, epoch ${at.epoch}, record ${at.sequence}`;
    return `  ${code}${place}: ${message}`;
  });
  const more = result.findingsTotal - result.findings.length;
  if (more > 0) lines.push(`  and ${more} more`);
  return `The audit trail${range} does NOT hold (${counts}):\n${lines.join('\n')}${gaps}`;
}

function parseKey(publicKey: string): KeyObject {
  const key = createPublicKey({ key: Buffer.from(publicKey, 'base64'), format: 'der', type: 'spki' });
  if (key.asymmetricKeyType !== 'ed25519') throw new Error('the fleet key is not an Ed25519 public key');
  return key;
}

/** Splits at line feeds alone: other line separators may stand inside of JSON. */
async function* linesOf(stream: AsyncIterable<Uint8Array | string>): AsyncGenerator<Buffer, void> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of stream) {
    const bytes = Buffer.from(chunk);
    rest = rest.length === 0 ? bytes : Buffer.concat([rest, bytes]);
    let start = 0;
    for (let end = rest.indexOf(newline); end >= 0; end = rest.indexOf(newline, start)) {
      yield rest.subarray(start, end + 1);
      start = end + 1;
    }
    rest = rest.subarray(start);
    if (rest.length > entryBytesMax) throw new Error(`an entry is longer than ${entryBytesMax} bytes`);
  }
  if (rest.length > 0) yield rest;
}

type Entry<Type extends AuditExportEntry['type']> = Extract<AuditExportEntry, { type: Type }>;

/** What the checkpoints say of one chain. */
interface ChainClaims {
  readonly nodeId: string;
  readonly epoch: string;
  /** Where the export's part of it begins: the last signed head before. */
  after: { readonly sequence: number; readonly hash: string };
  readonly heads: Map<number, string>;
  last: number;
  gaps: CheckpointHead['gaps'];
}

interface Position {
  readonly claims: ChainClaims;
  sequence: number;
  hash: string | undefined;
}

class Verifier {
  readonly #key: KeyObject;
  readonly #digest = createHash('sha256');
  readonly #findings: AuditFinding[] = [];
  #findingsTotal = 0;
  #header: Entry<'header'> | undefined;
  #ended = false;
  #lines = 0;
  #checkpoints = 0;
  #declaredGaps = 0;
  #lastCheckpoint: { readonly number: number; readonly hash: string } | undefined;
  readonly #chains = new Map<string, ChainClaims>();
  readonly #seen = new Set<string>();
  #position: Position | undefined;

  constructor(key: KeyObject) {
    this.#key = key;
  }

  take(bytes: Buffer): void {
    const entry = parseEntry(bytes);
    if (entry === undefined)
      return this.#find('NOT_AN_EXPORT', `entry ${this.#lines + this.#checkpoints + 2} is not one`);
    if (this.#ended) return this.#find('EXPORT_CHANGED', 'there is more after the end');
    if (entry.type !== 'end') this.#digest.update(bytes);
    if (entry.type !== 'header' && this.#header === undefined) {
      this.#find('NOT_AN_EXPORT', 'it does not begin with a header');
    }
    switch (entry.type) {
      case 'header':
        this.#header = entry;
        return;
      case 'checkpoint':
        return this.#takeCheckpoint(entry);
      case 'line':
        return this.#takeLine(entry);
      case 'end':
        return this.#takeEnd(entry);
      default:
        entry satisfies never;
    }
  }

  finish(): AuditVerification {
    if (!this.#ended) this.#checkCompleteness();
    if (!this.#ended) this.#find('EXPORT_CUT', 'the export has no end');
    return {
      ok: this.#findingsTotal === 0,
      lines: this.#lines,
      checkpoints: this.#checkpoints,
      epochs: this.#seen.size,
      from: this.#header?.from,
      to: this.#header?.to,
      findings: this.#findings,
      findingsTotal: this.#findingsTotal,
      declaredGaps: this.#declaredGaps,
    };
  }

  /** After the last record: what the checkpoints promise and was not there. */
  #checkCompleteness(): void {
    this.#leaveChain();
    const { upToCheckpoint = 0 } = this.#header ?? {};
    if ((this.#lastCheckpoint?.number ?? 0) < upToCheckpoint) {
      this.#find('CHECKPOINT_MISSING', `checkpoints up to ${upToCheckpoint} are missing`);
    }
    for (const [key, claims] of this.#chains) {
      if (this.#seen.has(key) || claims.last <= claims.after.sequence) continue;
      const { sequence } = claims.after;
      this.#findAt(claims, sequence + 1, 'LINES_MISSING', `none of its records up to ${claims.last} is there`);
    }
  }

  #takeCheckpoint(entry: Entry<'checkpoint'>): void {
    this.#checkpoints += 1;
    const body = parseBody(entry.body);
    if (body === undefined) return this.#find('NOT_AN_EXPORT', 'a checkpoint cannot be read');
    if (!this.#isSigned(checkpointSigningText(entry.body), entry.signature)) {
      return this.#find('SIGNATURE_WRONG', `checkpoint ${body.number} is not signed by the fleet key`);
    }
    const after = this.#header?.afterCheckpoint ?? 0;
    if (body.number > after) this.#checkSuccession(body, after);
    this.#lastCheckpoint = { number: body.number, hash: sha256(entry.body) };
    for (const head of body.heads) this.#claim(head, body.number > after);
  }

  /** From the first checkpoint of the range on, each names the one before it. */
  #checkSuccession(body: CheckpointBody, after: number): void {
    const before = this.#lastCheckpoint;
    const isFirst = body.number === 1 && body.previous === null;
    const follows = before?.number === body.number - 1 && before.hash === body.previous;
    if (isFirst && after === 0) return;
    if (!follows) this.#find('CHECKPOINT_MISSING', `checkpoint ${body.number} does not follow the one before it`);
  }

  #claim(head: CheckpointHead, inRange: boolean): void {
    const { nodeId, epoch, sequence, hash } = head;
    const key = JSON.stringify([nodeId, epoch]);
    let claims = this.#chains.get(key);
    if (claims === undefined) {
      const after = { sequence: 0, hash: epochSeed(nodeId, epoch) };
      claims = { nodeId, epoch, after, heads: new Map(), last: 0, gaps: [] };
      this.#chains.set(key, claims);
    }
    claims.gaps = head.gaps;
    claims.last = Math.max(claims.last, sequence);
    if (inRange) claims.heads.set(sequence, hash);
    else if (sequence >= claims.after.sequence) claims.after = { sequence, hash };
  }

  #takeLine(entry: Entry<'line'>): void {
    this.#lines += 1;
    const key = JSON.stringify([entry.nodeId, entry.epoch]);
    const current = this.#position?.claims;
    if (current?.nodeId !== entry.nodeId || current.epoch !== entry.epoch) this.#enterChain(key, entry);
    const position = this.#position;
    if (position === undefined) return;
    const { claims } = position;
    if (entry.sequence !== position.sequence + 1) this.#checkJump(position, entry.sequence);
    const text = entry.bytes === undefined ? entry.line : undefined;
    const hash = sha256(text ?? Buffer.from(entry.bytes ?? '', 'base64'));
    const inner = text === undefined ? undefined : parseLine(text);
    if (inner === undefined) {
      this.#findAt(claims, entry.sequence, 'CHAIN_BROKEN', 'the record cannot be read');
    } else if (inner.sequence !== entry.sequence) {
      this.#findAt(claims, entry.sequence, 'LINE_OUT_OF_ORDER', `the record says it is ${inner.sequence}`);
    } else if (position.hash !== undefined && inner.previous !== position.hash) {
      this.#findAt(claims, entry.sequence, 'CHAIN_BROKEN', 'the record before it is not the one it was written after');
    }
    const signed = claims.heads.get(entry.sequence);
    if (signed !== undefined && signed !== hash) {
      this.#findAt(claims, entry.sequence, 'HEAD_WRONG', 'a checkpoint signed another record here');
    }
    position.sequence = entry.sequence;
    position.hash = hash;
  }

  #checkJump(position: Position, sequence: number): void {
    const { claims } = position;
    const expected = position.sequence + 1;
    if (sequence < expected) {
      this.#findAt(claims, sequence, 'LINE_OUT_OF_ORDER', `record ${expected} was expected`);
      return;
    }
    const declared = claims.gaps.some((gap) => gap.first === expected && gap.last === sequence - 1);
    if (declared) this.#declaredGaps += sequence - expected;
    else this.#findAt(claims, expected, 'LINES_MISSING', `records up to ${sequence - 1} are missing`);
    position.hash = undefined;
  }

  #enterChain(key: string, entry: Entry<'line'>): void {
    this.#leaveChain();
    const claims = this.#chains.get(key);
    if (claims === undefined || this.#seen.has(key)) {
      const code = claims === undefined ? 'UNSIGNED_TAIL' : 'LINE_OUT_OF_ORDER';
      const message = claims === undefined ? 'no checkpoint knows this chain' : 'its chain had ended before';
      this.#findAt(entry, entry.sequence, code, message);
      this.#position = undefined;
      if (claims === undefined) this.#seen.add(key);
      return;
    }
    this.#seen.add(key);
    this.#position = { claims, sequence: claims.after.sequence, hash: claims.after.hash };
  }

  #leaveChain(): void {
    const position = this.#position;
    this.#position = undefined;
    if (position === undefined) return;
    const { claims, sequence } = position;
    if (sequence < claims.last) {
      this.#findAt(claims, sequence + 1, 'LINES_MISSING', `records up to ${claims.last} are missing`);
    } else if (sequence > claims.last) {
      this.#findAt(claims, claims.last + 1, 'UNSIGNED_TAIL', `no checkpoint covers the records up to ${sequence}`);
    }
  }

  #takeEnd(entry: Entry<'end'>): void {
    this.#checkCompleteness();
    this.#ended = true;
    const { lines, checkpoints } = entry;
    if (!this.#isSigned(exportEndSigningText(entry), entry.signature)) {
      this.#find('SIGNATURE_WRONG', 'the end is not signed by the fleet key');
    }
    if (entry.sha256 !== this.#digest.digest('hex') || lines !== this.#lines || checkpoints !== this.#checkpoints) {
      this.#find('EXPORT_CHANGED', 'it is not what was exported');
    }
  }

  #isSigned(text: string, signature: string): boolean {
    return verify(null, Buffer.from(text), this.#key, Buffer.from(signature, 'base64'));
  }

  #find(code: AuditFindingCode, message: string): void {
    this.#add({ code, message, at: undefined });
  }

  #findAt(
    chain: { readonly nodeId: string; readonly epoch: string },
    sequence: number,
    code: AuditFindingCode,
    message: string,
  ): void {
    this.#add({ code, message, at: { nodeId: chain.nodeId, epoch: chain.epoch, sequence } });
  }

  #add(finding: AuditFinding): void {
    this.#findingsTotal += 1;
    if (this.#findings.length < findingsMax) this.#findings.push(finding);
  }
}

function parseEntry(bytes: Buffer): AuditExportEntry | undefined {
  const parsed = auditExportEntrySchema.safeParse(parseJson(bytes.toString('utf8')));
  return parsed.success ? parsed.data : undefined;
}

function parseBody(text: string): CheckpointBody | undefined {
  const parsed = checkpointBodySchema.safeParse(parseJson(text));
  return parsed.success ? parsed.data : undefined;
}

function parseLine(text: string): { readonly sequence: number; readonly previous: string } | undefined {
  const parsed = lineSchema.safeParse(parseJson(text));
  return parsed.success ? parsed.data : undefined;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
