//! The product, which calls with a service key.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Permission;

use super::TestService;
use crate::metering::tenant::Answer;

pub const ORGANIZATIONS: &str = "/api/organizations";

pub struct Product {
    pub key: String,
}

impl Product {
    /// With a key that has every scope.
    pub async fn of(service: &TestService) -> Self {
        let key = service.service_key(&Permission::OF_SERVICE).await;
        Self { key }
    }

    /// A request for no organization yet.
    pub fn request(&self, service: &TestService, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", service.base);
        service.client.request(method, url).bearer_auth(&self.key)
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::of(request.send().await.unwrap()).await
    }

    /// PUTs the organization of this external id, as it stands in a path.
    pub async fn put(&self, service: &TestService, external_id: &str, body: &Value) -> Answer {
        let path = format!("{ORGANIZATIONS}/{external_id}");
        let request = self.request(service, Method::PUT, &path).json(body);
        self.send(request).await
    }

    pub async fn patch(&self, service: &TestService, named: &str, body: &Value) -> Answer {
        let path = format!("{ORGANIZATIONS}/{named}");
        let request = self.request(service, Method::PATCH, &path).json(body);
        self.send(request).await
    }

    pub async fn archive(&self, service: &TestService, named: &str) -> Answer {
        let path = format!("{ORGANIZATIONS}/{named}");
        self.send(self.request(service, Method::DELETE, &path))
            .await
    }

    pub async fn get(&self, service: &TestService, path: &str) -> Answer {
        self.send(self.request(service, Method::GET, path)).await
    }

    /// GETs a tenant's route for the organization of this name.
    pub async fn get_for(&self, service: &TestService, named: &str, path: &str) -> Answer {
        let request = self.request(service, Method::GET, path);
        self.send(request.header("x-organization", named)).await
    }

    /// POSTs to a tenant's route for the organization of this name.
    pub async fn post_for(
        &self,
        service: &TestService,
        named: &str,
        path: &str,
        body: &Value,
    ) -> Answer {
        let request = self.request(service, Method::POST, path).json(body);
        self.send(request.header("x-organization", named)).await
    }

    /// Makes an organization, and returns its id.
    pub async fn make(&self, service: &TestService, external_id: &str) -> String {
        let made = self
            .put(service, external_id, &json!({"name": "Acme"}))
            .await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["id"].as_str().unwrap().to_owned()
    }
}
