// Webhooks as the official SDK sees them.
//
//   node verify.mjs < webhooks
//
// webhooks is a JSON array of {secret, headers, payload}. Besides, each has to
// hold for an app that signs what it parsed and wrote again.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import sdk from '@scalekit-sdk/node';

const { ScalekitClient, WebhookVerificationError } = sdk;
const client = new ScalekitClient('http://127.0.0.1', 'id', 'secret');

for (const { secret, headers, payload } of JSON.parse(readFileSync(0, 'utf8'))) {
  assert.equal(client.verifyWebhookPayload(secret, headers, payload), true);
  assert.throws(() => client.verifyWebhookPayload(secret, headers, `${payload} `), WebhookVerificationError);
  assert.equal(JSON.stringify(JSON.parse(payload)), payload);
  console.log('ok', headers['webhook-id']);
}
console.log('done');
process.exit(0);
