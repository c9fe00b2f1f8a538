import { expect, test } from 'vitest';
import { toAppError } from '../errors.ts';
import { createLog } from './log.ts';

/** As Drizzle and the PostgreSQL driver throw them. */
function failedQuery(): Error {
  const driver = Object.assign(new Error('value too long for type character varying(8)'), {
    name: 'PostgresError',
    code: '22001',
    detail: 'Failing row contains (hash-of-a-key).',
    parameters: ['hash-of-a-key'],
  });
  const params = ['hash-of-a-key', 'text\n    at hash-of-a-key'];
  const message = `Failed query: insert into api_keys values ($1, $2)\nparams: ${params.join(',')}`;
  return Object.assign(new Error(message, { cause: driver }), { query: 'insert …', params });
}

test('a failed statement is logged by code, message and stack, without its parameters or rows', () => {
  const lines: string[] = [];
  const log = createLog({ name: 'test', level: 'info' }, { write: (line) => void lines.push(line) });
  const error = failedQuery();
  log.error({ err: error }, 'as it is');
  log.error({ err: toAppError(error) }, 'wrapped');
  log.error({ error }, 'under another name');
  log.error(error);
  log.error({ err: error });
  expect(lines).toHaveLength(5);
  for (const line of lines) {
    expect(line).not.toContain('hash-of-a-key');
    expect(line).toContain('insert into api_keys');
    expect(line).toContain('value too long');
    expect(line).toContain('22001');
    expect(line).toContain('log.test.ts');
  }
});

test('an error that is its own cause, and what is no error, can be logged', () => {
  const lines: string[] = [];
  const log = createLog({ name: 'test', level: 'info' }, { write: (line) => void lines.push(line) });
  const loop = new Error('round');
  loop.cause = loop;
  log.error({ err: loop });
  log.error({ err: 'a text' });
  log.error({ error: 'a text' });
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { err: { message: 'round' } },
    { err: { message: 'a text' } },
    { error: 'a text' },
  ]);
});

test('of what came along with an error and is none, nothing is logged but its kind', () => {
  const lines: string[] = [];
  const log = createLog({ name: 'test', level: 'info' }, { write: (line) => void lines.push(line) });
  for (const cause of [new URLSearchParams({ code: 'spent' }), new URL('https://a/?code=spent'), ['spent']]) {
    log.error({ err: new Error('refused', { cause }) }, 'not connected');
  }
  log.error({ err: Buffer.from('spent') });
  expect(lines.join('')).not.toContain('spent');
  expect(lines.map((line) => JSON.parse(line).err.cause?.message)).toEqual([
    '[object URLSearchParams]',
    '[object URL]',
    '[object Array]',
    undefined,
  ]);
});
