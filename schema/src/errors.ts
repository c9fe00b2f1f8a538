/**
 * The one error catalogue. GraphQL `extensions.code`, JSON-RPC errors, HTTP statuses, Terraform diagnostics and
 * docs/reference/error-codes.md all come from it.
 *
 * JSON-RPC numbers: the specification reserves -32768..-32000 (and -32020..-32099 for codes it defines itself), so
 * Sallyport's own failures carry positive numbers from 1000 on; where the caller must not be able to tell us from an
 * upstream, or the specification names a code, that code is used.
 */
export type ErrorOwner = 'client' | 'policy' | 'config' | 'upstream' | 'capacity' | 'platform';

export interface ErrorEntry {
  /** Who has to act; decides whom an alert reaches. */
  readonly owner: ErrorOwner;
  readonly http: number;
  readonly jsonRpc: number;
  /** True when the same request may succeed later without a change by the caller. */
  readonly retryable: boolean;
  /** What the caller is told. Never holds a name, address or id of something the caller may not know. */
  readonly publicMessage: string;
}

export const ERRORS = {
  UNAUTHENTICATED: {
    owner: 'client',
    http: 401,
    jsonRpc: 1001,
    retryable: false,
    publicMessage: 'Authentication is required: send a valid API key or access token as a bearer token.',
  },
  FORBIDDEN: {
    owner: 'client',
    http: 403,
    jsonRpc: 1002,
    retryable: false,
    publicMessage: 'You are not allowed to do this.',
  },
  INSUFFICIENT_SCOPE: {
    owner: 'client',
    http: 403,
    jsonRpc: 1016,
    retryable: false,
    publicMessage: 'The access token lacks a scope that this needs; log in again with the scopes of the challenge.',
  },
  INSUFFICIENT_AUTHENTICATION: {
    owner: 'client',
    http: 401,
    jsonRpc: 1019,
    retryable: false,
    publicMessage: 'This endpoint needs a stronger or fresher login; log in again as the challenge says.',
  },
  NOT_FOUND: {
    owner: 'client',
    http: 404,
    jsonRpc: 1003,
    retryable: false,
    publicMessage: 'There is no such object, or you may not see it.',
  },
  INVALID_INPUT: {
    owner: 'client',
    http: 400,
    jsonRpc: 1004,
    retryable: false,
    publicMessage: 'The input is not valid; see the violations.',
  },
  CONFLICT: {
    owner: 'client',
    http: 409,
    jsonRpc: 1005,
    retryable: false,
    publicMessage: 'The object was changed by someone else; read it again and repeat the change.',
  },
  RATE_LIMITED: { owner: 'client', http: 429, jsonRpc: 1006, retryable: true, publicMessage: 'Too many requests.' },
  ORIGIN_NOT_ALLOWED: {
    owner: 'client',
    http: 403,
    jsonRpc: 1007,
    retryable: false,
    publicMessage: 'The Host or Origin of the request is not allowed here.',
  },
  METHOD_NOT_ALLOWED: {
    owner: 'client',
    http: 405,
    jsonRpc: 1008,
    retryable: false,
    publicMessage: 'This HTTP method is not supported at this endpoint.',
  },
  BODY_TOO_LARGE: {
    owner: 'client',
    http: 413,
    jsonRpc: 1009,
    retryable: false,
    publicMessage: 'The request body is larger than this endpoint accepts.',
  },
  UNSUPPORTED_MEDIA_TYPE: {
    owner: 'client',
    http: 415,
    jsonRpc: 1010,
    retryable: false,
    publicMessage: 'Send application/json, without a content encoding.',
  },
  NOT_ACCEPTABLE: {
    owner: 'client',
    http: 406,
    jsonRpc: 1011,
    retryable: false,
    publicMessage: 'The client must accept application/json and text/event-stream.',
  },
  HEADERS_TOO_LARGE: {
    owner: 'client',
    http: 431,
    jsonRpc: 1012,
    retryable: false,
    publicMessage: 'The request header block is larger than this endpoint accepts.',
  },
  REQUEST_TIMEOUT: {
    owner: 'client',
    http: 408,
    jsonRpc: 1013,
    retryable: true,
    publicMessage: 'The request did not arrive in time.',
  },
  PARSE_ERROR: {
    owner: 'client',
    http: 400,
    jsonRpc: -32700,
    retryable: false,
    publicMessage: 'The body is not valid JSON.',
  },
  INVALID_REQUEST: {
    owner: 'client',
    http: 400,
    jsonRpc: -32600,
    retryable: false,
    publicMessage: 'The body is not a valid JSON-RPC message.',
  },
  INVALID_PARAMS: {
    owner: 'client',
    http: 400,
    jsonRpc: -32602,
    retryable: false,
    publicMessage: 'The parameters of the request are not valid.',
  },
  METHOD_NOT_FOUND: {
    owner: 'client',
    http: 404,
    jsonRpc: -32601,
    retryable: false,
    publicMessage: 'Method not found',
  },
  HEADER_MISMATCH: {
    owner: 'client',
    http: 400,
    jsonRpc: -32020,
    retryable: false,
    publicMessage: 'A header does not equal what the body says.',
  },
  UNSUPPORTED_PROTOCOL_REVISION: {
    owner: 'client',
    http: 400,
    jsonRpc: -32022,
    retryable: false,
    publicMessage: 'Unsupported protocol version',
  },
  SESSION_REQUIRED: {
    owner: 'client',
    http: 400,
    jsonRpc: 1014,
    retryable: false,
    publicMessage: 'Bad Request: Mcp-Session-Id header is required',
  },
  SESSION_NOT_FOUND: {
    owner: 'client',
    http: 404,
    jsonRpc: 1015,
    retryable: false,
    publicMessage: 'Session not found',
  },
  TOOL_NOT_AVAILABLE: { owner: 'policy', http: 200, jsonRpc: -32602, retryable: false, publicMessage: 'Unknown tool' },
  PROMPT_NOT_AVAILABLE: {
    owner: 'policy',
    http: 200,
    jsonRpc: -32602,
    retryable: false,
    publicMessage: 'Unknown prompt',
  },
  RESOURCE_NOT_AVAILABLE: {
    owner: 'policy',
    http: 200,
    jsonRpc: -32602,
    retryable: false,
    publicMessage: 'Resource not found',
  },
  TASK_NOT_AVAILABLE: {
    owner: 'policy',
    http: 200,
    jsonRpc: -32602,
    retryable: false,
    publicMessage: 'Task not found',
  },
  APPROVAL_NEEDED: {
    owner: 'policy',
    http: 200,
    jsonRpc: 1022,
    retryable: false,
    publicMessage: 'This call needs an approval. Ask an administrator of the gateway for it.',
  },
  BLOCKED_BY_POLICY: {
    owner: 'policy',
    http: 200,
    jsonRpc: 1023,
    retryable: false,
    publicMessage: 'A policy of the gateway does not let this pass.',
  },
  INSPECTION_FAILED: {
    owner: 'platform',
    http: 200,
    jsonRpc: 1024,
    retryable: true,
    publicMessage: 'The gateway could not inspect this as a policy demands, so it does not let it pass.',
  },
  UPSTREAM_REQUEST_REFUSED: {
    owner: 'policy',
    http: 200,
    jsonRpc: 1025,
    retryable: false,
    publicMessage: 'The server asked its client for something that the gateway does not let it ask for.',
  },
  CONFIG_INVALID: {
    owner: 'config',
    http: 500,
    jsonRpc: 1020,
    retryable: false,
    publicMessage: 'The configuration of this server is not valid.',
  },
  CONFIG_STALE: {
    owner: 'platform',
    http: 503,
    jsonRpc: 1021,
    retryable: true,
    publicMessage: 'This node has been without contact to the control plane for too long.',
  },
  UPSTREAM_UNREACHABLE: {
    owner: 'upstream',
    http: 502,
    jsonRpc: 1030,
    retryable: true,
    publicMessage: 'The MCP server could not be reached.',
  },
  UPSTREAM_TIMEOUT: {
    owner: 'upstream',
    http: 504,
    jsonRpc: 1031,
    retryable: false,
    publicMessage: 'The MCP server did not answer in time.',
  },
  UPSTREAM_PROTOCOL: {
    owner: 'upstream',
    http: 502,
    jsonRpc: 1032,
    retryable: false,
    publicMessage: 'The MCP server sent an answer that is not valid.',
  },
  UPSTREAM_RESPONSE_TOO_LARGE: {
    owner: 'upstream',
    http: 502,
    jsonRpc: 1033,
    retryable: false,
    publicMessage: 'The answer of the MCP server is larger than allowed.',
  },
  UPSTREAM_REFUSED: {
    owner: 'config',
    http: 502,
    jsonRpc: 1034,
    retryable: false,
    publicMessage: 'The MCP server did not accept the gateway.',
  },
  CREDENTIAL_REFUSED: {
    owner: 'upstream',
    http: 502,
    jsonRpc: 1035,
    retryable: false,
    publicMessage: 'The MCP server did not accept the credential that the gateway has for it; it must be set anew.',
  },
  CREDENTIAL_MISSING: {
    owner: 'config',
    http: 502,
    jsonRpc: 1036,
    retryable: false,
    publicMessage: 'The gateway has no credential for this MCP server; an administrator has to set it.',
  },
  CREDENTIAL_UNAVAILABLE: {
    owner: 'platform',
    http: 503,
    jsonRpc: 1037,
    retryable: true,
    publicMessage: 'The credential for this MCP server cannot be had just now; try again shortly.',
  },
  CONNECTION_NEEDED: {
    owner: 'client',
    http: 200,
    jsonRpc: 1039,
    retryable: false,
    publicMessage: 'Your account is not connected to this MCP server.',
  },
  CREDENTIAL_KEY_MISSING: {
    owner: 'config',
    http: 409,
    jsonRpc: 1038,
    retryable: false,
    publicMessage:
      'No key is configured to seal credentials with, so none can be stored: set SALLYPORT_CREDENTIAL_KEY_FILE or ' +
      'SALLYPORT_TRANSIT_URL on the control plane.',
  },
  PAYLOAD_UNAVAILABLE: {
    owner: 'platform',
    http: 503,
    jsonRpc: 1040,
    retryable: true,
    publicMessage: 'This payload cannot be opened: its key cannot be had just now, or it was changed.',
  },
  CANCELLED: {
    owner: 'client',
    http: 200,
    jsonRpc: 1060,
    retryable: false,
    publicMessage: 'The request was cancelled by its client.',
  },
  CALL_LOST: {
    owner: 'platform',
    http: 200,
    jsonRpc: 1061,
    retryable: false,
    publicMessage:
      'The call that waited for this input is gone. It may have had effects; issue the request again if that is safe.',
  },
  PEER_UNREACHABLE: {
    owner: 'platform',
    http: 503,
    jsonRpc: 1062,
    retryable: true,
    publicMessage: 'The node of the gateway that holds this call cannot be reached.',
  },
  OVERLOADED: {
    owner: 'capacity',
    http: 503,
    jsonRpc: 1040,
    retryable: true,
    publicMessage: 'The gateway is at its limit; try again shortly.',
  },
  NOT_READY: {
    owner: 'capacity',
    http: 503,
    jsonRpc: 1041,
    retryable: true,
    publicMessage: 'The gateway is starting or stopping; try again shortly.',
  },
  AUDIT_UNAVAILABLE: {
    owner: 'platform',
    http: 503,
    jsonRpc: 1042,
    retryable: true,
    publicMessage: 'The request cannot be recorded, so it is not served.',
  },
  QUERY_TOO_COMPLEX: {
    owner: 'client',
    http: 400,
    jsonRpc: 1043,
    retryable: false,
    publicMessage: 'The query exceeds the limits on depth, cost or aliases.',
  },
  INTERNAL: {
    owner: 'platform',
    http: 500,
    jsonRpc: 1099,
    retryable: true,
    publicMessage: 'Something failed inside Sallyport; the incident was logged.',
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

/** One thing wrong with an input: where, what, and how to mend it. */
export interface Violation {
  /** Path into the input, for example `input.selectors.tools[2]`. */
  readonly path: string;
  readonly message: string;
}

export interface AppErrorOptions {
  /** For the log only; never reaches the caller. */
  readonly internal?: string;
  readonly cause?: unknown;
  readonly violations?: readonly Violation[];
  /** Replaces the catalogue's public message with one that is still safe to show, such as the revisions supported. */
  readonly publicMessage?: string;
  /** `data` of the JSON-RPC error, where the specification or our documentation defines one. */
  readonly data?: Readonly<Record<string, unknown>>;
}

/** The only error that crosses a module boundary on purpose. Anything else is treated as `INTERNAL`. */
export class AppError extends Error {
  readonly code: ErrorCode;
  readonly internal: string | undefined;
  readonly violations: readonly Violation[] | undefined;
  readonly publicMessage: string;
  readonly data: Readonly<Record<string, unknown>> | undefined;

  constructor(code: ErrorCode, options: AppErrorOptions = {}) {
    super(
      options.internal ?? ERRORS[code].publicMessage,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = 'AppError';
    this.code = code;
    this.internal = options.internal;
    this.violations = options.violations;
    this.publicMessage = options.publicMessage ?? ERRORS[code].publicMessage;
    this.data = options.data;
  }

  get entry(): ErrorEntry {
    return ERRORS[this.code];
  }
}

/** Anything thrown, as an AppError: what is not one already is our own bug (`INTERNAL`). */
export function toAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  return new AppError('INTERNAL', {
    internal: thrown instanceof Error ? thrown.message : String(thrown),
    cause: thrown,
  });
}
