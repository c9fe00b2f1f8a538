import { setTimeout as delay } from 'node:timers/promises';
import {
  type CallToolResult,
  completable,
  fromJsonSchema,
  type McpServer,
  ResourceTemplate,
} from '@modelcontextprotocol/server';
import { z } from 'zod';

/** One red pixel. */
export const pixelPng =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
/** A WAV header with no samples. */
const silenceWav = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=';
const stepMs = 50;

export interface ChangeNotifier {
  toolsChanged(): void;
  promptsChanged(): void;
}

function text(value: string): CallToolResult {
  return { content: [{ type: 'text', text: value }] };
}

/** Tools whose answer never depends on the client. */
function registerPlainTools(server: McpServer): void {
  server.registerTool('test_simple_text', { description: 'Answers with a fixed sentence' }, () =>
    text('This is a simple text response for testing.'),
  );
  server.registerTool('test_image_content', { description: 'Answers with an image' }, () => ({
    content: [{ type: 'image', data: pixelPng, mimeType: 'image/png' }],
  }));
  server.registerTool('test_audio_content', { description: 'Answers with a sound' }, () => ({
    content: [{ type: 'audio', data: silenceWav, mimeType: 'audio/wav' }],
  }));
  server.registerTool('test_embedded_resource', { description: 'Answers with a resource' }, () => ({
    content: [
      {
        type: 'resource',
        resource: {
          uri: 'test://embedded-resource',
          mimeType: 'text/plain',
          text: 'This is an embedded resource content.',
        },
      },
    ],
  }));
  server.registerTool('test_multiple_content_types', { description: 'Answers with text, image and resource' }, () => ({
    content: [
      { type: 'text', text: 'Multiple content types test:' },
      { type: 'image', data: pixelPng, mimeType: 'image/png' },
      {
        type: 'resource',
        resource: {
          uri: 'test://mixed-content-resource',
          mimeType: 'application/json',
          text: '{"test":"data","value":123}',
        },
      },
    ],
  }));
  server.registerTool('test_error_handling', { description: 'Always fails' }, () => {
    throw new Error('This tool intentionally returns an error for testing');
  });
}

/** Tools that say something while they work. */
function registerTalkingTools(server: McpServer): void {
  server.registerTool('test_tool_with_logging', { description: 'Logs three times' }, async (ctx) => {
    await ctx.mcpReq.log('info', 'Tool execution started');
    await delay(stepMs);
    await ctx.mcpReq.log('info', 'Tool processing data');
    await delay(stepMs);
    await ctx.mcpReq.log('info', 'Tool execution completed');
    return text('Logged three messages');
  });
  server.registerTool('test_logging_tool', { description: 'Logs once, where the request asks for it' }, async (ctx) => {
    await ctx.mcpReq.log('info', 'A message that only some requests may see');
    return text('Logged');
  });
  server.registerTool('test_tool_with_progress', { description: 'Reports progress' }, async (ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (const progress of [0, 50, 100]) {
      if (progressToken !== undefined) {
        await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
      }
      if (progress < 100) await delay(stepMs);
    }
    return text('Finished with progress');
  });
  server.registerTool('test_waits', { description: 'Answers once it is cancelled' }, async (ctx) => {
    await new Promise<void>((resolve) => ctx.mcpReq.signal.addEventListener('abort', () => resolve(), { once: true }));
    return text('Cancelled');
  });
  server.registerTool('test_reconnection', { description: 'Closes its stream before it answers' }, async (ctx) => {
    ctx.http?.closeSSE?.();
    await delay(2 * stepMs);
    return text('Answered after the stream was closed');
  });
}

/** Tools that check what the request carried. */
function registerCheckingTools(server: McpServer, changes: ChangeNotifier): void {
  const region = z.string().meta({ 'x-mcp-header': 'Region' });
  server.registerTool(
    'test_headers',
    {
      description: 'Has arguments that are mirrored into headers',
      inputSchema: z.object({ region, count: z.number().optional() }),
    },
    ({ region: chosen }) => text(`Region ${chosen}`),
  );
  server.registerTool('test_trigger_tool_change', { description: 'Announces a changed tool list' }, () => {
    changes.toolsChanged();
    return text('Announced');
  });
  server.registerTool('test_trigger_prompt_change', { description: 'Announces a changed prompt list' }, () => {
    changes.promptsChanged();
    return text('Announced');
  });
  server.registerTool(
    'json_schema_2020_12_tool',
    { description: 'Tool with JSON Schema 2020-12 features', inputSchema: fromJsonSchema(contactSchema) },
    (contact) => text(JSON.stringify(contact)),
  );
}

const contactSchema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } },
    },
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  // biome-ignore lint/suspicious/noThenProperty: a keyword of JSON Schema
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
};

function registerResources(server: McpServer): void {
  const fixed = (name: string, uri: string, value: string): void => {
    server.registerResource(name, uri, { description: `The ${name} resource`, mimeType: 'text/plain' }, () => ({
      contents: [{ uri, mimeType: 'text/plain', text: value }],
    }));
  };
  fixed('static-text', 'test://static-text', 'This is the content of the static text resource.');
  fixed('watched-resource', 'test://watched-resource', 'This resource can be watched.');
  server.registerResource(
    'static-binary',
    'test://static-binary',
    { description: 'One red pixel', mimeType: 'image/png' },
    () => ({ contents: [{ uri: 'test://static-binary', mimeType: 'image/png', blob: pixelPng }] }),
  );
  server.registerResource(
    'template',
    new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'Data by id', mimeType: 'application/json' },
    (uri, { id }) => ({
      contents: [
        {
          uri: uri.href,
          mimeType: 'application/json',
          text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${String(id)}` }),
        },
      ],
    }),
  );
}

const places = ['paris', 'park', 'party', 'testing'];
const completedArgument = (description: string) =>
  completable(z.string().describe(description), (typed) => places.filter((place) => place.startsWith(typed)));

function registerPrompts(server: McpServer): void {
  const user = (value: string) => ({ role: 'user' as const, content: { type: 'text' as const, text: value } });
  server.registerPrompt('test_simple_prompt', { description: 'A prompt without arguments' }, () => ({
    messages: [user('This is a simple prompt for testing.')],
  }));
  server.registerPrompt(
    'test_prompt_with_arguments',
    {
      description: 'A prompt with two arguments',
      argsSchema: z.object({ arg1: completedArgument('First test argument'), arg2: z.string().describe('Second') }),
    },
    ({ arg1, arg2 }) => ({ messages: [user(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)] }),
  );
  server.registerPrompt(
    'test_prompt_with_embedded_resource',
    { description: 'A prompt that embeds a resource', argsSchema: z.object({ resourceUri: z.string() }) },
    ({ resourceUri }) => ({
      messages: [
        {
          role: 'user',
          content: {
            type: 'resource',
            resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' },
          },
        },
        user('Please process the embedded resource above.'),
      ],
    }),
  );
  server.registerPrompt('test_prompt_with_image', { description: 'A prompt with an image' }, () => ({
    messages: [
      { role: 'user', content: { type: 'image', data: pixelPng, mimeType: 'image/png' } },
      user('Please analyze the image above.'),
    ],
  }));
}

/** Everything the official suite asks of a server that needs no answer from the user. */
export function registerContent(server: McpServer, changes: ChangeNotifier): void {
  registerPlainTools(server);
  registerTalkingTools(server);
  registerCheckingTools(server, changes);
  registerResources(server);
  registerPrompts(server);
}
