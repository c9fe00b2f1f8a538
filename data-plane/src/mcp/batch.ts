import { AppError } from '@sallyport/schema';
import { isObject, scanBody } from './envelope.ts';
import { arrayElements } from './json-scanner.ts';

/** Most messages of one batch. */
const membersMax = 100;
const openBracket = 0x5b;

interface BatchMember {
  readonly body: Buffer;
  /** Only requests are answered (JSON-RPC 2.0 §6). */
  readonly isRequest: boolean;
}

/** A JSON-RPC batch, in the order it came. */
export type Batch = readonly BatchMember[];

/** Whether a body is a batch rather than one message, by its first byte that is not white space. */
export function isBatch(body: Buffer): boolean {
  let at = 0;
  while (at < body.length && [0x20, 0x09, 0x0a, 0x0d].includes(body[at] ?? 0)) at++;
  return body[at] === openBracket;
}

/**
 * Cuts a batch into its messages; what is wrong with any of them is found when it is taken in by itself.
 * @throws AppError PARSE_ERROR, INVALID_REQUEST for an empty or too large one, and for what no batch may hold
 */
export function readBatch(body: Buffer): Batch {
  const { root } = scanBody(body);
  const elements = arrayElements(body, root) ?? [];
  if (elements.length === 0 || elements.length > membersMax) {
    throw new AppError('INVALID_REQUEST', { publicMessage: `A JSON-RPC batch holds 1 to ${membersMax} messages.` });
  }
  const values: unknown = JSON.parse(body.toString('utf8', root.start, root.end));
  return elements.map((element, index) => {
    const value: unknown = Array.isArray(values) ? values[index] : undefined;
    if (Array.isArray(value)) throw new AppError('INVALID_REQUEST', { publicMessage: 'A batch holds no batches.' });
    // 2025-03-26 basic/lifecycle, Initialization.
    if (isObject(value) && value['method'] === 'initialize') {
      throw new AppError('INVALID_REQUEST', { publicMessage: 'initialize must not be part of a JSON-RPC batch.' });
    }
    const isNotification = isObject(value) && 'method' in value && !('id' in value);
    const isResponse = isObject(value) && !('method' in value) && ('result' in value || 'error' in value);
    return { body: body.subarray(element.start, element.end), isRequest: !isNotification && !isResponse };
  });
}
