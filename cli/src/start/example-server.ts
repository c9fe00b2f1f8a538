/**
 * A small MCP server of revision 2026-07-28 alone, for trying Sallyport. Run as a program it listens on the loopback
 * port given as its argument and ends on SIGTERM or when its parent's IPC channel closes.
 */
import { createServer, type IncomingMessage } from 'node:http';
import { localhostHostValidation, localhostOriginValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import { type Clock, systemClock } from '@sallyport/schema/platform';
import { z } from 'zod';
import { convertUnits, unitNames, units } from './example-units.ts';

export interface ExampleServer {
  readonly url: string;
  stop(): Promise<void>;
}

const loopback = '127.0.0.1';
const readOnly = { readOnlyHint: true, openWorldHint: false } as const;
const textCharactersMax = 100_000;

function registerTime(server: McpServer, clock: Clock): void {
  const timeZone = z.string().max(64).default('UTC').describe('IANA name of a time zone, such as Europe/Vienna');
  server.registerTool(
    'time',
    {
      title: 'Current time',
      description: 'The current date and time in a time zone',
      inputSchema: z.object({ timeZone }),
      annotations: readOnly,
    },
    ({ timeZone: zone }) => {
      const now = new Date(clock.now());
      const local = now.toLocaleString('en-GB', { timeZone: zone, dateStyle: 'full', timeStyle: 'long' });
      return { content: [{ type: 'text', text: `${local} (${now.toISOString()})` }] };
    },
  );
}

function registerConversion(server: McpServer): void {
  const name = z.enum(unitNames);
  server.registerTool(
    'convert_units',
    {
      title: 'Convert units',
      description: 'Converts a length, mass or temperature from one unit to another',
      inputSchema: z.object({ value: z.number(), from: name, to: name }),
      outputSchema: z.object({ value: z.number(), unit: name }),
      annotations: { ...readOnly, idempotentHint: true },
    },
    ({ value, from, to }) => {
      const converted = convertUnits(value, from, to);
      if (converted === undefined) {
        const problem = `${from} is a unit of ${units[from].dimension}, ${to} one of ${units[to].dimension}`;
        return { isError: true, content: [{ type: 'text', text: problem }] };
      }
      return {
        content: [{ type: 'text', text: `${value} ${from} = ${converted} ${to}` }],
        structuredContent: { value: converted, unit: to },
      };
    },
  );
  server.registerResource(
    'units',
    'units://all',
    { title: 'Units', description: 'The units that convert_units knows', mimeType: 'application/json' },
    (uri) => ({
      contents: [
        { uri: uri.href, mimeType: 'application/json', text: JSON.stringify(units, ['dimension', ...unitNames]) },
      ],
    }),
  );
}

function registerWords(server: McpServer): void {
  const text = z.string().max(textCharactersMax);
  server.registerTool(
    'count_words',
    {
      title: 'Count words',
      description: 'Counts the words, sentences and characters of a text',
      inputSchema: z.object({ text }),
      annotations: { ...readOnly, idempotentHint: true },
    },
    ({ text: counted }) => {
      const count = (granularity: 'grapheme' | 'word' | 'sentence'): number =>
        [...new Intl.Segmenter('en', { granularity }).segment(counted)].filter(({ isWordLike }) => isWordLike !== false)
          .length;
      const counts = `${count('word')} words, ${count('sentence')} sentences, ${count('grapheme')} characters`;
      return { content: [{ type: 'text', text: counts }] };
    },
  );
  server.registerPrompt(
    'summarize',
    {
      title: 'Summarize',
      description: 'Asks for a summary of a text in a number of words',
      argsSchema: z.object({ text, words: z.string().default('50').describe('Length of the summary in words') }),
    },
    ({ text: summarized, words }) => ({
      messages: [
        {
          role: 'user',
          content: { type: 'text', text: `Summarize this in at most ${words} words:\n\n${summarized}` },
        },
      ],
    }),
  );
}

function build(clock: Clock): McpServer {
  const server = new McpServer(
    { name: 'sallyport-example', version: '1.0.0' },
    { instructions: 'Small tools without side effects: the time, unit conversion and word counts.' },
  );
  registerTime(server, clock);
  registerConversion(server);
  registerWords(server);
  return server;
}

/** @param options.port 0 chooses a free one; only loopback is listened on. */
export async function startExampleServer(options: {
  readonly port: number;
  readonly clock?: Clock;
}): Promise<ExampleServer> {
  const clock = options.clock ?? systemClock;
  const handler = createMcpHandler(() => build(clock), { legacy: 'reject' });
  const handle = toNodeHandler(handler);
  const hostIsLocal = localhostHostValidation();
  const originIsLocal = localhostOriginValidation();
  const http = createServer((request, response) => {
    if (!hostIsLocal(request, response) || !originIsLocal(request, response)) return;
    // A server's requests always have both; the adapter's type does not take `undefined`.
    void handle(request as IncomingMessage & { method: string; url: string }, response);
  });
  await new Promise<void>((resolve, reject) => {
    http.once('error', reject);
    http.listen(options.port, loopback, resolve);
  });
  const address = http.address();
  const port = typeof address === 'object' && address !== null ? address.port : options.port;
  return {
    url: `http://${loopback}:${port}/mcp`,
    stop: async () => {
      await handler.close();
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}

if (import.meta.main) {
  await startExampleServer({ port: Number(process.argv[2] ?? 0) });
  process.once('SIGTERM', () => process.exit(0));
  process.once('disconnect', () => process.exit(0));
}
