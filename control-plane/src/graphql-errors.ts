import { AppError, type ErrorCode, ERRORS, toAppError } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { GraphQLError, type GraphQLFormattedError } from 'graphql';
import { isConnectionFailure } from './database/client.ts';

/** Codes of graphql-js and Apollo for a request that is wrong in itself. */
const requestProblems: ReadonlySet<unknown> = new Set([
  'GRAPHQL_PARSE_FAILED',
  'GRAPHQL_VALIDATION_FAILED',
  'BAD_USER_INPUT',
  'BAD_REQUEST',
  'OPERATION_RESOLUTION_FAILURE',
  'PERSISTED_QUERY_NOT_SUPPORTED',
]);

function originOf(thrown: unknown): unknown {
  let current = thrown;
  while (current instanceof GraphQLError && current.originalError) current = current.originalError;
  return current;
}

/** What graphql-js says of a value, without the value: it may be a secret under a name that was mistyped. */
function withoutValues(message: string, origin: unknown): string {
  const [, variable] = /^(Variable "\$[^"]*") got invalid value /.exec(message) ?? [];
  if (variable === undefined) return withoutValue(message);
  const reason = origin instanceof GraphQLError && message.endsWith(`; ${origin.message}`) ? origin.message : undefined;
  if (reason === undefined) return `${variable} does not fit its type.`;
  const [place = ''] = / at "[^"]*"$/.exec(message.slice(0, -`; ${reason}`.length)) ?? [];
  return `${variable} got an invalid value${place}; ${withoutValue(reason)}`;
}

function withoutValue(reason: string): string {
  return reason
    .replace(/^(\w+ cannot represent [^:]*): [\s\S]*$/, '$1.')
    .replace(/^(Expected value of type "[^"]*"), found [\s\S]*$/, '$1.');
}

function shape(code: ErrorCode, message: string, formatted: GraphQLFormattedError, error?: AppError) {
  return {
    message,
    ...(formatted.locations === undefined ? {} : { locations: formatted.locations }),
    ...(formatted.path === undefined ? {} : { path: formatted.path }),
    extensions: {
      code,
      retryable: ERRORS[code].retryable,
      ...(error?.violations === undefined ? {} : { violations: error.violations }),
    },
  } satisfies GraphQLFormattedError;
}

/** graphql-js marks what is wrong with the request itself only by errors that lie in the document, not in its result. */
function isRequestProblem(formatted: GraphQLFormattedError, thrown: unknown, origin: unknown): boolean {
  if (requestProblems.has(formatted.extensions?.['code'])) return true;
  return [thrown, origin].some(
    (error) =>
      error instanceof GraphQLError &&
      error.path === undefined &&
      (error.nodes !== undefined || error.source !== undefined),
  );
}

/**
 * The one place where failures become GraphQL errors: `extensions.code` from the catalogue, `violations` where there
 * are any. What is not an AppError is our own bug: logged whole, shown as INTERNAL.
 */
export function graphqlErrorOf(formatted: GraphQLFormattedError, thrown: unknown, log: Log): GraphQLFormattedError {
  const origin = originOf(thrown);
  if (!(origin instanceof AppError) && isRequestProblem(formatted, thrown, origin)) {
    return shape('INVALID_INPUT', withoutValues(formatted.message, origin), formatted);
  }
  if (isConnectionFailure(origin)) {
    log.warn({ err: origin }, 'the database is away');
    return shape('NOT_READY', ERRORS.NOT_READY.publicMessage, formatted);
  }
  const error = toAppError(origin);
  if (error.entry.owner === 'platform') log.error({ err: error.cause ?? error, path: formatted.path }, 'API failure');
  else log.debug({ code: error.code, internal: error.internal, path: formatted.path }, 'API refusal');
  return shape(error.code, error.publicMessage, formatted, error);
}
