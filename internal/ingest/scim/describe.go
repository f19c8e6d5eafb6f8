package scim

import (
	"net/http"
	"strconv"
)

const (
	configSchema       = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
	resourceTypeSchema = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
	schemaSchema       = "urn:ietf:params:scim:schemas:core:2.0:Schema"
)

// describe answers what clients may ask about the service itself.
func describe(r *request, kind string) (answer, error) {
	var ids []string
	appendOne := appendResourceType
	switch kind {
	case "ServiceProviderConfig":
		if r.id != "" {
			return answer{}, notFound("there is nothing at this path")
		}
		return answer{status: http.StatusOK, body: appendConfig(nil, r.base)}, nil
	case "ResourceTypes":
		ids = []string{"User", "Group"}
	default:
		ids = []string{userSchema, groupSchema, enterpriseSchema}
		appendOne = appendSchema
	}
	if r.id != "" {
		for _, id := range ids {
			if same(id, r.id) {
				return answer{status: http.StatusOK, body: appendOne(nil, r.base, id)}, nil
			}
		}
		return answer{}, notFound("there is nothing at this path")
	}
	b := appendListHead(nil, len(ids), 1, len(ids))
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendOne(b, r.base, id)
	}
	return answer{status: http.StatusOK, body: append(b, "]}"...)}, nil
}

func appendConfig(b []byte, base string) []byte {
	b = append(b, `{"schemas":["`+configSchema+`"],"patch":{"supported":true},`+
		`"bulk":{"supported":false,"maxOperations":0,"maxPayloadSize":0},"filter":{"supported":true,"maxResults":`...)
	b = strconv.AppendInt(b, maxCount, 10)
	b = append(b, `},"changePassword":{"supported":false},"sort":{"supported":false},"etag":{"supported":false},`+
		`"authenticationSchemes":[{"type":"oauthbearertoken","name":"Bearer token",`+
		`"description":"The token of the directory, in the Authorization header","primary":true}],`+
		`"meta":{"resourceType":"ServiceProviderConfig","location":`...)
	b = appendText(b, base+"/ServiceProviderConfig")
	return append(b, "}}"...)
}

func appendResourceType(b []byte, base, id string) []byte {
	schema, extensions := userSchema, `[{"schema":"`+enterpriseSchema+`","required":false}]`
	if id == "Group" {
		schema, extensions = groupSchema, "[]"
	}
	b = append(b, `{"schemas":["`+resourceTypeSchema+`"],"id":"`+id+`","name":"`+id+`","endpoint":"/`+id+`s","schema":"`+schema+
		`","schemaExtensions":`+extensions+`,"meta":{"resourceType":"ResourceType","location":`...)
	b = appendText(b, base+"/ResourceTypes/"+id)
	return append(b, "}}"...)
}

// The attributes that are not in userAttributes, as a Schema describes them.
const (
	ownUserAttributes = `{"name":"userName","type":"string","multiValued":false,"required":true,"caseExact":false,"mutability":"readWrite","returned":"default","uniqueness":"server"},` +
		`{"name":"active","type":"boolean","multiValued":false,"required":false,"mutability":"readWrite","returned":"default"},`
	managerAttribute = `{"name":"manager","type":"complex","multiValued":false,"required":false,"mutability":"readWrite","returned":"default","subAttributes":[` +
		`{"name":"value","type":"string","multiValued":false,"required":false,"caseExact":true,"mutability":"readWrite","returned":"default","uniqueness":"none"}]},`
	groupAttributes = `{"name":"displayName","type":"string","multiValued":false,"required":true,"caseExact":false,"mutability":"readWrite","returned":"default","uniqueness":"none"},` +
		`{"name":"members","type":"complex","multiValued":true,"required":false,"mutability":"readWrite","returned":"default","subAttributes":[` +
		`{"name":"value","type":"string","multiValued":false,"required":true,"caseExact":true,"mutability":"immutable","returned":"default","uniqueness":"none"},` +
		`{"name":"type","type":"string","multiValued":false,"required":false,"caseExact":false,"canonicalValues":["User"],"mutability":"immutable","returned":"default","uniqueness":"none"}]}`
)

func appendSchema(b []byte, base, id string) []byte {
	name, attributes := "User", appendAttributes([]byte(ownUserAttributes), userAttributes[:enterpriseAt])
	switch id {
	case groupSchema:
		name, attributes = "Group", []byte(groupAttributes)
	case enterpriseSchema:
		name, attributes = "EnterpriseUser", appendAttributes([]byte(managerAttribute), userAttributes[enterpriseAt].subs)
	}
	b = append(b, `{"schemas":["`+schemaSchema+`"],"id":"`+id+`","name":"`+name+`","description":"`+name+`","attributes":[`...)
	b = append(b, attributes...)
	b = append(b, `],"meta":{"resourceType":"Schema","location":`...)
	b = appendText(b, base+"/Schemas/"+id)
	return append(b, "}}"...)
}

// appendAttributes describes attributes that are kept as they are sent.
func appendAttributes(b []byte, as []attribute) []byte {
	for i, a := range as {
		if i > 0 {
			b = append(b, ',')
		}
		kind := "string"
		switch {
		case a.subs != nil:
			kind = "complex"
		case a.truth:
			kind = "boolean"
		}
		b = append(b, `{"name":"`+a.name+`","type":"`+kind+`","multiValued":`...)
		b = strconv.AppendBool(b, a.many)
		b = append(b, `,"required":false,"mutability":"readWrite","returned":"default"`...)
		switch {
		case a.subs != nil:
			b = append(appendAttributes(append(b, `,"subAttributes":[`...), a.subs), ']')
		case !a.truth:
			b = append(b, `,"caseExact":false,"uniqueness":"none"`...)
		}
		b = append(b, '}')
	}
	return b
}
