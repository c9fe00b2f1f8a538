import { pino, type Logger } from 'pino';

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

/**
 * Structured log: one JSON object a line on stderr, so stdout stays free for what a command prints. Known secret
 * fields are redacted; a caller still never passes a secret on purpose.
 */
export function createLog(options: { readonly name: string; readonly level: string }): Log {
  return pino(
    {
      name: options.name,
      level: options.level,
      redact: { paths: secretPaths, censor: '[redacted]' },
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination({ fd: 2, sync: true }),
  );
}
