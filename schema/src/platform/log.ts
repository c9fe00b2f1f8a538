import { type DestinationStream, type Logger, pino } from 'pino';

export type Log = Logger;

const secretPaths = [
  'authorization',
  'token',
  'apiKey',
  'secret',
  'password',
  '*.authorization',
  '*.token',
  '*.apiKey',
  '*.secret',
  '*.password',
  'headers.cookie',
  '*.headers.cookie',
];

/** Causes followed of one error. */
const causesMax = 8;
/** Characters kept of a message and of a stack: some carry a whole statement. */
const textLengthMax = 4_000;

export interface LoggedError {
  readonly type: string;
  readonly message: string;
  readonly code?: string;
  readonly stack?: string;
  readonly cause?: LoggedError;
}

/**
 * What a log may hold of a failure: its name, code, message and stack, and those of its causes. No other property: the
 * database's errors carry the parameters of the statement and whole rows, which are configuration, personal data and
 * digests of keys. Drizzle writes the parameters into the message as well, from where the stack repeats them.
 */
export function loggedError(thrown: unknown, causes = 0): LoggedError {
  if (!(thrown instanceof Error)) return { type: typeof thrown, message: kindOf(thrown) };
  const code = 'code' in thrown && typeof thrown.code === 'string' ? thrown.code : undefined;
  const frames = framesOf(thrown);
  const message = withoutParameters(thrown.message);
  const cause = thrown.cause === undefined || causes >= causesMax ? undefined : loggedError(thrown.cause, causes + 1);
  return {
    type: thrown.name,
    message,
    ...(code === undefined ? {} : { code }),
    ...(frames === undefined ? {} : { stack: `${thrown.name}: ${message}${frames}`.slice(0, textLengthMax) }),
    ...(cause === undefined ? {} : { cause }),
  };
}

/** Of an object no more than what it is: libraries give whole answers along with an error, with their codes and tokens. */
function kindOf(thrown: unknown): string {
  if (typeof thrown !== 'object' || thrown === null) return withoutParameters(String(thrown));
  return Object.prototype.toString.call(thrown);
}

function errorIn(value: unknown): Error | undefined {
  if (typeof value !== 'object' || value === null || !('err' in value)) return undefined;
  return value.err instanceof Error ? value.err : undefined;
}

/** The stack behind the message that it repeats; undefined where it repeats another, as one set later would be. */
function framesOf(error: Error): string | undefined {
  const stack = error.stack ?? '';
  const at = stack.indexOf(error.message);
  const frames = at < 0 ? -1 : stack.indexOf('\n    at ', at + error.message.length);
  return frames < 0 ? undefined : stack.slice(frames);
}

function withoutParameters(message: string): string {
  const at = message.startsWith('Failed query: ') ? message.indexOf('\nparams: ') : -1;
  return (at < 0 ? message : message.slice(0, at)).slice(0, textLengthMax);
}

/**
 * Structured log: one JSON object a line on stderr, so stdout stays free for what a command prints. Known secret
 * fields are redacted; a caller still never passes a secret on purpose.
 */
export function createLog(
  options: { readonly name: string; readonly level: string },
  destination: DestinationStream = pino.destination({ fd: 2, sync: true }),
): Log {
  return pino(
    {
      name: options.name,
      level: options.level,
      redact: { paths: secretPaths, censor: '[redacted]' },
      serializers: {
        err: loggedError,
        error: (value: unknown) => (value instanceof Error ? loggedError(value) : value),
      },
      hooks: {
        // Without a text pino would take the message of the error, whole.
        logMethod(args, method) {
          const [first, text] = args as [unknown, ...unknown[]];
          const error = first instanceof Error ? first : errorIn(first);
          if (error === undefined || text !== undefined) method.apply(this, args);
          else method.call(this, first === error ? { err: error } : first, withoutParameters(error.message));
        },
      },
      formatters: { level: (label) => ({ level: label }) },
    },
    destination,
  );
}
