import type { AppError, Era, ErrorCode } from '@sallyport/schema';

/**
 * Failures that concern one message and not the connection. A modern client reads the HTTP status the specification
 * names; several legacy SDKs drop their whole session on any 4xx or 5xx to a POST, so a legacy request is told in a
 * JSON-RPC error over 200.
 */
const perMessage: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'METHOD_NOT_FOUND',
  'INVALID_PARAMS',
  'TOOL_NOT_AVAILABLE',
  'PROMPT_NOT_AVAILABLE',
  'RESOURCE_NOT_AVAILABLE',
  'TASK_NOT_AVAILABLE',
  'APPROVAL_NEEDED',
  'BLOCKED_BY_POLICY',
  'INSPECTION_FAILED',
  'UPSTREAM_REQUEST_REFUSED',
  'CONFIG_STALE',
  'UPSTREAM_UNREACHABLE',
  'UPSTREAM_REFUSED',
  'UPSTREAM_TIMEOUT',
  'UPSTREAM_PROTOCOL',
  'UPSTREAM_RESPONSE_TOO_LARGE',
  'CREDENTIAL_REFUSED',
  'CREDENTIAL_MISSING',
  'CREDENTIAL_UNAVAILABLE',
  'CONNECTION_NEEDED',
]);

/** How long a caller is asked to wait where waiting helps, in seconds. */
const retryAfterS = 1;

export interface ErrorAnswer {
  readonly status: number;
  readonly headers: readonly string[];
  readonly body: Buffer;
}

export interface AnsweredMessage {
  readonly kind: 'request' | 'notification' | 'response';
  /** The id as the client wrote it. */
  readonly idText: string | null;
}

/**
 * The HTTP status and JSON-RPC body of a failure: the one place where a node translates an AppError.
 * @param challenge value of `WWW-Authenticate`, where the failure has one
 */
export function errorResponse(
  error: AppError,
  era: Era,
  message: AnsweredMessage | null,
  challenge: string | null = null,
): ErrorAnswer {
  const headers = ['content-type', 'application/json', 'cache-control', 'no-store'];
  if (challenge !== null) headers.push('www-authenticate', challenge);
  if (error.code === 'METHOD_NOT_ALLOWED') headers.push('allow', era === 'modern' ? 'POST' : 'GET, POST, DELETE');
  if (error.entry.retryable && error.entry.http !== 502) headers.push('retry-after', String(retryAfterS));
  return {
    status: statusOf(error, era, message),
    headers,
    body: Buffer.from(errorMessage(error, message)),
  };
}

function statusOf(error: AppError, era: Era, message: AnsweredMessage | null): number {
  if (era === 'legacy' && message !== null && perMessage.has(error.code)) {
    // A notification has no JSON-RPC answer to carry the error, and 404 would end a legacy session.
    return message.kind === 'request' ? 200 : 400;
  }
  return error.entry.http;
}

/** The JSON-RPC error object, also for the inside of an event stream. */
export function errorMessage(error: AppError, message: AnsweredMessage | null): string {
  const data = error.data === undefined ? '' : `,"data":${JSON.stringify(error.data)}`;
  const id = message?.kind === 'request' ? (message.idText ?? 'null') : 'null';
  return `{"jsonrpc":"2.0","id":${id},"error":{"code":${error.entry.jsonRpc},"message":${JSON.stringify(error.publicMessage)}${data}}}`;
}
